/** A server in a separate thread. Its CPU time must not count as time of the service. */
import net from 'node:net';
import { parentPort } from 'node:worker_threads';
import {
  type AnswerSpec,
  buildAnswers,
  type EndlessAnswer,
  type RawAnswers,
} from './hostile-bodies.ts';

let answers = buildAnswers({ kind: 'working' });
/** Sends an answer that never ends; null sends a whole answer. */
let sendWithoutEnd: ((socket: net.Socket) => void) | null = null;
parentPort?.on('message', (spec: AnswerSpec) => {
  sendWithoutEnd = spec.kind === 'endless' ? endless[spec.name] : null;
  answers = buildAnswers(spec);
  parentPort?.postMessage('changed');
});

const head = 'HTTP/1.1 200 OK\r\netag: "e"\r\n';
const slowly = (socket: net.Socket) => {
  const timer = setInterval(() => socket.write('a'), 200);
  socket.once('close', () => clearInterval(timer));
};
const endless: Readonly<Record<EndlessAnswer, (socket: net.Socket) => void>> = {
  'a body without end'(socket) {
    const block = Buffer.alloc(64 * 1024, 'a');
    const fill = () => {
      while (!socket.destroyed && socket.write(block));
    };
    socket.on('drain', fill);
    socket.write(`${head}\r\n`);
    fill();
  },
  'a slow body'(socket) {
    socket.write(`${head}\r\n`);
    slowly(socket);
  },
  'a slow header'(socket) {
    socket.write(`${head}a: `);
    slowly(socket);
  },
  silence() {},
};

const server = net.createServer(socket => {
  socket.on('error', () => {});
  let head = '';
  let missing = -1;
  socket.on('data', chunk => {
    if (missing < 0) {
      head += chunk.toString('latin1');
      const end = head.indexOf('\r\n\r\n');
      if (end === -1) return;
      const [, length = '0'] = /^content-length: (\d+)/im.exec(head) ?? [];
      missing = Number(length) - (head.length - end - 4);
    } else missing -= chunk.length;
    if (missing > 0) return;
    const method = head.slice(0, head.indexOf(' ')) as keyof RawAnswers;
    head = '';
    missing = -1;
    if (sendWithoutEnd === null) socket.end(answers[method], 'latin1');
    else sendWithoutEnd(socket);
  });
});
server.listen(0, '127.0.0.1', () => parentPort?.postMessage(server.address()));
