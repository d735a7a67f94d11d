// Requests over one session of HTTP/2, eight at a time, until standard input ends.
const session = require('node:http2').connect(`http://${process.argv[2]}`);
let over = false, answered = 0, failed = 0, goaway = 0;
process.stdin.resume().on('end', () => { over = true; });
session.on('goaway', () => { goaway += 1; });
session.on('error', (error) => { failed += 1; console.log('failed:', error); });

function ask() {
  return new Promise((resolve) => {
    let status = 0;
    const stream = session.request({ ':path': '/version' });
    stream.on('response', (headers) => { status = headers[':status']; });
    stream.on('error', (error) => { console.log('failed:', error); status = 0; });
    stream.on('close', () => { status === 200 ? answered += 1 : failed += 1; resolve(); });
    stream.resume();
  });
}

async function all() {
  while (!over && !session.closed) await ask();
}

Promise.all(Array.from({ length: 8 }, all)).then(() => {
  console.log(`answered=${answered} failed=${failed} goaway=${goaway}`);
  session.close();
  process.stdin.destroy();
});
