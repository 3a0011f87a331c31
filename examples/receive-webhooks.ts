/**
 * Receives webhooks, verifies them and prints one line for each event.
 *
 *   WEBHOOK_SECRET=whsec_… PORT=8080 node examples/receive-webhooks.ts
 *
 * During a rotation, WEBHOOK_SECRET has both secrets, separated by a comma.
 */
import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';
import {
  verifyWebhook,
  type WebhookEvent,
  WebhookVerificationError,
} from '@warehouse-export/client';

const secret = process.env['WEBHOOK_SECRET']?.split(',') ?? [];
const port = Number(process.env['PORT'] ?? '8080');
/** Messages of the last minutes. A real receiver keeps them in its database. */
const seen = new Set<string>();

const server = createServer(async (request, response) => {
  try {
    const body = await text(request);
    const event = await verifyWebhook({ secret, headers: request.headers, body });
    const id = String(request.headers['webhook-id']);
    // A message is sent again if its first answer got lost.
    if (!seen.has(id)) console.log(describe(event));
    seen.add(id);
    // Answer at once and do the work later: the service waits for a few seconds only.
    response.writeHead(204).end();
  } catch (error) {
    // 400 for a foreign message. The service repeats a message after 500.
    const isForeign = error instanceof WebhookVerificationError;
    console.error(error instanceof Error ? error.message : error);
    response.writeHead(isForeign ? 400 : 500).end();
  }
});
server.listen(port, '127.0.0.1', () => console.log(`Listening on port ${port}`));

function describe(event: WebhookEvent): string {
  switch (event.type) {
    case 'export.failed':
      return `${event.data.configName} failed: ${event.data.error?.message}`;
    case 'export.succeeded':
      return `${event.data.configName} delivered ${event.data.objectKey}`;
    case 'export.recovered':
      return `${event.data.configName} works again`;
    case 'export.turned_off':
      return `${event.data.configName} was turned off`;
    default:
      return event.type;
  }
}
