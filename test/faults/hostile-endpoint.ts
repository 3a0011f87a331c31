/** A server in a separate thread. Its CPU time must not count as time of the service. */
import net from 'node:net';
import { parentPort } from 'node:worker_threads';
import { type AnswerSpec, buildAnswers, type RawAnswers } from './hostile-bodies.ts';

let answers = buildAnswers({ kind: 'working' });
parentPort?.on('message', (spec: AnswerSpec) => {
  answers = buildAnswers(spec);
  parentPort?.postMessage('changed');
});
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
    socket.end(answers[method], 'latin1');
  });
});
server.listen(0, '127.0.0.1', () => parentPort?.postMessage(server.address()));
