# The same application for puma.
run ->(_) { [200, { "Content-Type" => "text/plain" }, ["ospid:#{Process.pid}\n"]] }
