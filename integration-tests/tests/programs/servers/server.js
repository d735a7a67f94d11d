// Listens on descriptor 3; SIGTERM stops it as Node's documentation advises.
const http = require("node:http");
const server = http.createServer((request, response) => response.end(`ospid:${process.pid}\n`));
server.listen({ fd: 3 });
process.on("SIGTERM", () => server.close(() => process.exit(0)));
