// Requests over one session of HTTP/2, eight at a time, and one stream of events after the other, in which
// none may be missing, until standard input ends; with a certificate over TLS.
const [, , address, certificate] = process.argv;
const session = certificate
  ? require('node:http2').connect(`https://${address}`, { ca: require('node:fs').readFileSync(certificate) })
  : require('node:http2').connect(`http://${address}`);
let over = false, answered = 0, events = 0, failed = 0, goaway = 0;
process.stdin.resume().on('end', () => { over = true; });
session.on('goaway', () => { goaway += 1; });
session.on('error', fail);

function fail(why) {
  failed += 1;
  console.log('failed:', why);
}

function ask(path, data) {
  return new Promise((resolve) => {
    let status = 0;
    const stream = session.request({ ':path': path });
    stream.on('response', (headers) => { status = headers[':status']; });
    stream.on('error', fail);
    stream.on('close', () => { if (status !== 200) fail(`${path}: ${status}`); resolve(); });
    data ? stream.setEncoding('utf8').on('data', (text) => data(text, stream)) : stream.resume();
  });
}

async function all() {
  for (; !over && !session.closed; answered += 1) await ask('/version');
}

async function listen() {
  while (!over && !session.closed) {
    let next = 0, said = '';
    await ask('/events', (text, stream) => {
      const lines = (said + text).split('\n');
      said = lines.pop();
      for (const line of lines.filter((line) => line.startsWith('data: '))) {
        if (line !== `data: ${next}`) fail(`${line} instead of ${next}`);
        next += 1;
        events += 1;
      }
      if (over) stream.close();
    });
  }
}

Promise.all([listen(), ...Array.from({ length: 8 }, all)]).then(() => {
  console.log(`answered=${answered} events=${events} failed=${failed} goaway=${goaway}`);
  session.close();
  process.stdin.destroy();
});
