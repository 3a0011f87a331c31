import { randomUUID } from 'node:crypto';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import Fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from 'fastify';
import { auditRoutes } from './audit/routes.ts';
import type { Config } from './config/config.ts';
import { findSchemaObstacle } from './db/schema-state.ts';
import type { Dependencies } from './dependencies.ts';
import { apiKeyRoutes } from './environments/auth/api-key-routes.ts';
import { registerAuthorization } from './environments/auth/authorize.ts';
import { describeAccess } from './environments/auth/describe-access.ts';
import { registerRateLimits } from './environments/auth/rate-limits.ts';
import { environmentRoutes, planProblemMembers } from './environments/routes.ts';
import { webhookRoutes } from './environments/webhook-routes.ts';
import { storageProblemMembers } from './export-configs/check-schemas.ts';
import { overviewRoutes } from './export-configs/overview-routes.ts';
import { configRoutes } from './export-configs/routes.ts';
import { runErrorSchema } from './export-configs/status-schemas.ts';
import { validateRoutes } from './export-configs/validate-routes.ts';
import { backfillRoutes } from './export-runs/backfill-routes.ts';
import { cancelRuns } from './export-runs/control-repository.ts';
import { wakeRuns } from './export-runs/enqueue-runs.sql.ts';
import { runRoutes } from './export-runs/routes.ts';
import { linkRoutes } from './exports/link-routes.ts';
import { maxTokenLength } from './exports/link-tokens.ts';
import { exportRoutes } from './exports/routes.ts';
import { registerAllowedMethods } from './http/allowed-methods.ts';
import { registerBodyTimeLimits } from './http/body-time.ts';
import { registerCors, showWithoutHooks } from './http/cors.ts';
import { registerDrain } from './http/drain.ts';
import { answerBrokenHttp, registerErrorHandler, sendProblem } from './http/error-handler.ts';
import { healthRoutes } from './http/health-routes.ts';
import { validateHostHeader } from './http/host-header.ts';
import { jsonBodyLimitBytes, registerJsonBodies } from './http/json-bodies.ts';
import { metricsRoutes } from './http/metrics-routes.ts';
import { registerOpenapi } from './http/openapi.ts';
import { answerInTurn } from './http/pipelining.ts';
import { registerFormats } from './http/schemas.ts';
import { createSerializerFactory } from './http/serializer-compiler.ts';
import { endWithAnswer, tracedLogger, traceRequests } from './http/trace-requests.ts';
import { compileValidator, configureValidator } from './http/validator-compiler.ts';
import { snapshotRoutes } from './snapshots/routes.ts';
import { documentWebhooks } from './webhooks/schemas.ts';

/**
 * Maximum length of a path parameter in characters. Tokens of download links are longer than any
 * id.
 */
const maxParamLength = maxTokenLength + 200;

/** Creates the HTTP service for `inject` or `listen`. It never listens itself. */
export async function buildApp(dependencies: Dependencies): Promise<FastifyInstance> {
  registerFormats();
  configureValidator();
  const { config } = dependencies;
  const app = Fastify({
    loggerInstance: dependencies.log as FastifyBaseLogger,
    genReqId: () => randomUUID(),
    logController: new LogController({ requestIdLogLabel: 'requestId' }),
    childLoggerFactory: tracedLogger,
    bodyLimit: jsonBodyLimitBytes,
    schemaController: { compilersFactory: { buildSerializer: createSerializerFactory() } },
    trustProxy: trustProxy(config.trustProxy),
    // HEAD routes are declared explicitly. A derived one would run a whole download.
    exposeHeadRoutes: false,
    routerOptions: { maxParamLength },
    forceCloseConnections: 'idle',
    // During shutdown, a request on an open connection is answered normally and is the last one
    // there.
    return503OnClosing: false,
    // Node would answer 400 without a problem body. `validateHostHeader` checks the header instead.
    http: { requireHostHeader: false },
    frameworkErrors: (error, request, reply) => {
      showWithoutHooks(config.corsOrigins, request, reply);
      endWithAnswer(request, reply);
      return sendProblem(error, request, reply);
    },
    clientErrorHandler: (error, socket) =>
      afterAnswers(socket, () =>
        answerBrokenHttp(error, socket, dependencies.log as FastifyBaseLogger),
      ),
  })
    .withTypeProvider<TypeBoxTypeProvider>()
    .setValidatorCompiler(compileValidator);

  const afterAnswers = answerInTurn(app.server);
  app.removeContentTypeParser('text/plain');
  registerJsonBodies(app as unknown as FastifyInstance);
  // Node would answer 417 without a problem body. An unknown expectation is ignored.
  app.server.on('checkExpectation', (request, response) =>
    app.server.emit('request', request, response),
  );
  traceRequests(app as unknown as FastifyInstance);
  await registerCors(app as unknown as FastifyInstance, config.corsOrigins);
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id);
    validateHostHeader(request);
  });
  registerDrain(app, dependencies);
  registerErrorHandler(app);
  registerBodyTimeLimits(app);
  registerAllowedMethods(app as unknown as FastifyInstance, maxParamLength);
  const limits = await registerRateLimits(app, {
    perCaller: config.rateLimitPerCaller,
    failedLogins: config.rateLimitFailedLogins,
    now: dependencies.now,
  });
  registerAuthorization(app, { ...dependencies, adminToken: config.adminToken, limits });
  await registerOpenapi(app, {
    describeCallers: ({ access }) => (access === undefined ? '' : describeAccess(access)),
    problemMembers: { ...planProblemMembers, ...storageProblemMembers },
    webhooks: documentWebhooks(runErrorSchema),
  });
  const configDependencies = {
    ...dependencies,
    encryptionKeys: config.encryptionKeys,
    cancelRuns,
  };
  // Starts runs that wait for the snapshot at once. After an error here the next tick starts them.
  const onIngested = (environmentId: string, date: string) =>
    wakeRuns(dependencies.db, dependencies.jobs, environmentId, date).catch((error: unknown) => {
      dependencies.log.warn({ err: error, environmentId, date }, 'waiting runs not enqueued');
    });
  await app.register(metricsRoutes(dependencies));
  await app.register(
    healthRoutes({
      isStopping: () => dependencies.isStopping,
      findDatabaseObstacle: () => findSchemaObstacle(dependencies.db),
    }),
  );
  // A worker serves only health and metrics.
  if (config.processRole === 'worker') return app as unknown as FastifyInstance;
  await app.register(
    async v1 => {
      await v1.register(environmentRoutes(configDependencies));
      await v1.register(webhookRoutes(configDependencies));
      await v1.register(apiKeyRoutes(dependencies));
      await v1.register(snapshotRoutes({ ...dependencies, onIngested }));
      await v1.register(exportRoutes(dependencies));
      await v1.register(linkRoutes({ ...dependencies, limits, publicUrl: config.publicUrl }));
      await v1.register(configRoutes(configDependencies));
      await v1.register(validateRoutes(configDependencies));
      await v1.register(overviewRoutes(configDependencies));
      await v1.register(runRoutes(dependencies));
      await v1.register(backfillRoutes(dependencies));
      await v1.register(auditRoutes(dependencies));
    },
    { prefix: '/v1' },
  );
  return app as unknown as FastifyInstance;
}

/**
 * Converts the setting for Fastify, which ignores a number of proxies. The operator guarantees that
 * callers reach the service only through these proxies.
 */
function trustProxy(trusted: Config['trustProxy']) {
  if (typeof trusted === 'number') return (_address: string, hop: number) => hop < trusted;
  return trusted === false ? false : [...trusted];
}
