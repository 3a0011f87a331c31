import { readFile } from 'node:fs/promises';
import t from 'tap';
import { parse } from 'yaml';
import packageJson from '../../package.json' with { type: 'json' };
import { runErrorCodes } from '../../src/export-configs/run-error.ts';
import { nameComponents } from '../../src/http/name-components.ts';
import { errorStatus } from '../../src/shared/errors.ts';

// biome-ignore lint/suspicious/noExplicitAny: the document is read as callers read it.
const document: any = parse(await readFile(new URL('../../openapi.yaml', import.meta.url), 'utf8'));
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  // biome-ignore lint/suspicious/noExplicitAny: as above.
  Object.entries(methods as Record<string, any>).map(([method, operation]) => ({
    route: `${method} ${path}`,
    operation,
  })),
);

t.test('names every object schema that callers see', async t => {
  const unnamed: string[] = [];
  const visit = (value: unknown, at: string): void => {
    if (typeof value !== 'object' || value === null) return;
    const isObject = 'properties' in value && /\/(schema|items|\d+)$/.test(at);
    if (isObject) unnamed.push(at);
    for (const [key, inner] of Object.entries(value)) visit(inner, `${at}/${key}`);
  };
  visit(document.paths, '');
  visit(document.webhooks, 'webhooks');
  visit(document.components.schemas, 'schemas');
  t.strictSame(unnamed, []);
  const names = [
    ...['Environment', 'ApiKey', 'Snapshot', 'Export', 'ExportConfig', 'ExportConfigStatus'],
    ...[
      'Run',
      'CurrentRun',
      'Backfill',
      'AuditLogEntry',
      'Problem',
      'DownloadLink',
      'StorageError',
      'RunError',
    ],
  ];
  t.strictSame(
    names.filter(name => document.components.schemas[name]?.type !== 'object'),
    [],
  );
});

t.test('gives every operation a unique id', async t => {
  const ids = operations.map(({ operation }) => operation.operationId);
  t.strictSame(
    ids.filter((id, index) => id === undefined || ids.indexOf(id) !== index),
    [],
  );
});

t.test('names every error response', async t => {
  for (const { route, operation } of operations) {
    for (const [status, response] of Object.entries<Record<string, unknown>>(operation.responses)) {
      if (Number(status) < 400) continue;
      if (typeof response['$ref'] !== 'string') t.fail(`${route}: ${status}`);
    }
  }
});

t.test('documents no body where HTTP allows none', async t => {
  for (const { route, operation } of operations) {
    for (const status of ['204', '304']) {
      t.notHas(operation.responses[status], { content: {} }, `${route}: ${status}`);
    }
  }
});

t.test('says who may call each operation', async t => {
  const callers = /(Scope: `|Only with the operator token|With any token|Needs no `Authorization`)/;
  for (const { route, operation } of operations) t.match(operation.description, callers, route);
});

t.test('documents ranges only where a file has them', async t => {
  const ranged = operations.filter(({ operation }) => '206' in operation.responses);
  t.strictSame(ranged.map(({ operation }) => operation.operationId).toSorted(), [
    'downloadExport',
    'downloadExportGzip',
    'followDownloadLink',
  ]);
  t.strictSame(
    operations.filter(({ operation }) => '416' in operation.responses),
    ranged,
  );
});

t.test('states the maximum of every whole number in a query', async t => {
  for (const { route, operation } of operations) {
    for (const { name, schema } of operation.parameters ?? []) {
      if (schema?.type === 'integer') t.type(schema.maximum, 'number', `${route}: ${name}`);
    }
  }
});

t.test('lists closed sets of codes', async t => {
  const { ProblemCode, RunErrorCode, StorageErrorCode, CheckName, Plan } =
    document.components.schemas;
  t.strictSame(ProblemCode.enum, Object.keys(errorStatus));
  t.strictSame(RunErrorCode.enum, runErrorCodes);
  t.ok(StorageErrorCode.enum.includes('bucket_not_found'));
  t.strictSame(CheckName.enum, ['list', 'write']);
  t.strictSame(Plan.enum, ['free', 'pro', 'enterprise']);
});

t.test('describes bodies that Fastify does not know', async t => {
  const put = document.paths['/v1/environments/{environmentId}/snapshots/{date}'].put;
  t.equal(put.requestBody.required, true);
  t.strictSame(Object.keys(put.requestBody.content), ['text/csv']);
  const runs = '/v1/environments/{environmentId}/export-configs/{configId}/runs';
  t.equal(document.paths[runs].post.requestBody.required, false);
});

t.test('describes one config body per provider', async t => {
  const { ExportConfigInput, AwsExportConfigInput, GcpExportConfigInput, CustomExportConfigInput } =
    document.components.schemas;
  t.equal(ExportConfigInput.oneOf.length, 3);
  t.notHas(AwsExportConfigInput.properties, { bucket: {} });
  t.notHas(GcpExportConfigInput.properties, { encryption: {} });
  t.ok(CustomExportConfigInput.required.includes('endpoint'));
});

t.test('has the version of package.json', async t => {
  t.equal(document.info.version, packageJson.version);
});

t.test('refuses two different schemas with one name', async t => {
  const titled = (type: string) => ({ schema: { title: 'Same', type } });
  const withSchemas = (...types: string[]) => ({
    components: { schemas: {} },
    paths: { '/': { get: { parameters: types.map(titled), responses: {} } } },
  });
  t.throws(() => nameComponents(withSchemas('string', 'integer')), /named Same/);
  t.doesNotThrow(() => nameComponents(withSchemas('string', 'string')));
});
