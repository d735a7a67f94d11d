#!/usr/bin/env -S python3 -B
"""An incumbent that dies while it is joined. Its arguments are the path of the control socket, and after which
message it dies: `listeners`, or `control`, with which a successor has everything."""
import fcntl, os, socket, sys

sys.path.insert(0, os.environ["PYTHON_JOIN"])
from service import hear, say

path, after = sys.argv[1:]
lock = os.open(path + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(lock, fcntl.LOCK_EX)
os.pwrite(lock, b"running\n", 0)
control = socket.socket(socket.AF_UNIX)
os.umask(0o177)
control.bind(path)
control.listen()
http = socket.create_server(("127.0.0.1", 0))
http.setblocking(False)
address = "%s:%s" % http.getsockname()
print(f"serving generation=1 pid={os.getpid()} http={address}", flush=True)
link = control.accept()[0]
hear(link, None)
control.setblocking(False)
terms = {"version": 1, "lease_ms": 60000, "handoff": "0badcafe", "generation": 2}
us = {"instance": "0" * 32, "pid": os.getpid(), "version": "v1", "name": "dies"}
say(link, parameters={**terms, "incumbent": us, "incumbent_generation": 1})
item = {"name": "http", "kind": "tcp", "address": address}
say(link, http.fileno(), type="listeners", batch=1, items=[item])
hear(link, "received")
if after == "control":
    say(link, control.fileno(), lock, type="control", batch=2)
    hear(link, "received")
