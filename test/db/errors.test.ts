import t from 'tap';
import { systemActor } from '../../src/audit/audit-log.ts';
import { createApiKey } from '../../src/environments/auth/api-keys-repository.ts';
import { toAppError } from '../../src/http/error-handler.ts';
import { startTestApp } from '../helpers/app.ts';

t.test('answers not_found if the environment of a new key was deleted meanwhile', async t => {
  const app = await startTestApp(t);
  const input = {
    environmentId: 'gone',
    name: 'late',
    scopes: ['exports:read'],
    expiresAt: null,
  } as const;
  const error = await createApiKey(app.dependencies.db, systemActor('test'), input).catch(
    (thrown: unknown) => thrown,
  );
  t.equal(toAppError(error).code, 'not_found');
});
