import t from 'tap';
import { makeWebhookSecret, signatureHeaders } from '../../src/webhooks/signature.ts';
import { registerSecret } from '../helpers/secrets.ts';

t.test('signs as the reference library does', async t => {
  // Expected values from `standardwebhooks` 1.1.1.
  const headers = signatureHeaders(
    'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
    { id: 'msg_p5jXN8AQM9LWM0D4loKWxlek', body: '{"test": 2432232314}' },
    new Date(1_614_265_330_999),
  );
  t.strictSame(headers, {
    'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxlek',
    'webhook-timestamp': '1614265330',
    'webhook-signature': 'v1,BWy17FPvrvgB9B8Tq0JOg4pHYngeNOMHSr/OYzFsrg0=',
  });
});

t.test('makes secrets of 256 random bits', async t => {
  const secrets = Array.from({ length: 100 }, () => registerSecret(makeWebhookSecret()));
  t.equal(new Set(secrets).size, 100);
  for (const secret of secrets) {
    t.ok(/^whsec_[A-Za-z0-9+/]{43}=$/.test(secret));
    t.equal(Buffer.from(secret.slice(6), 'base64').length, 32);
  }
});
