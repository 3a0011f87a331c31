import { ApiError, createClient } from '@warehouse-export/client';

/**
 * Data of `session.json`. In a product, the backend gives the page the environment of the signed-in
 * user and an access token of the identity provider.
 *
 * @typedef {{ environmentId: string, token: string, defaults?: Record<string, string> }} Session
 */

/** @returns {Promise<Session>} */
async function fetchSession() {
  return (await fetch('session.json')).json();
}

const session = await fetchSession();
const path = { environmentId: session.environmentId };
const client = createClient({
  baseUrl: location.origin,
  token: async () => (await fetchSession()).token,
});

/** @type {import('@warehouse-export/client').Export[]} */
let exports = [];
/** @type {import('@warehouse-export/client').ExportConfig[]} */
let configs = [];
/** Config that the form shows. Null for a new one. */
/** @type {import('@warehouse-export/client').ExportConfig | null} */
let current = null;

/**
 * @template {HTMLElement} [Type=HTMLElement]
 * @param {string} id
 */
const element = id => /** @type {Type} */ (document.getElementById(id));
/** @type {HTMLFormElement} */
const downloadForm = element('download');
/** @type {HTMLFormElement} */
const configForm = element('config');
/** @type {HTMLInputElement} */
const enabled = element('enabled');
/** @type {HTMLSelectElement} */
const choice = element('configs');
/** @type {HTMLProgressElement} */
const progress = element('download-progress');
/** @type {HTMLButtonElement} */
const runNow = element('run-now');

/** @param {HTMLFormElement} form @param {string} name */
const field = (form, name) =>
  /** @type {HTMLInputElement} */ (/** @type {unknown} */ (form.elements.namedItem(name)));

const dateTime = new Intl.DateTimeFormat(undefined, {
  ...{ dateStyle: 'medium', timeStyle: 'short' },
});
/** @param {string | null} instant @param {string} otherwise */
const localTime = (instant, otherwise) =>
  instant === null ? otherwise : dateTime.format(new Date(instant));
/** @param {number} bytes */
const size = bytes =>
  bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} KB` : `${(bytes / 1e6).toFixed(1)} MB`;

/** @param {string} id @param {string} text @param {string} [style] */
function show(id, text, style = '') {
  element(id).textContent = text;
  if (style !== '') element(id).className = style;
}

/** @param {unknown} error */
const messageOf = error =>
  error instanceof ApiError ? error.problem.detail || error.message : String(error);

// Manual export

async function loadExports() {
  exports = (await client.api.listExports({ path })).items;
  const options = exports.map(({ title, aggregation }) => new Option(title, aggregation));
  field(downloadForm, 'aggregation').replaceChildren(...options);
  showSize();
}

function showSize() {
  const chosen = field(downloadForm, 'aggregation').value;
  const file = exports.find(({ aggregation }) => aggregation === chosen);
  if (file === undefined) return;
  const bytes = file.sizeBytes === null ? '' : `, ${size(file.sizeBytes)} as CSV`;
  show('size', `${file.rowCount.toLocaleString()} rows${bytes}`);
}

async function download() {
  const abort = new AbortController();
  element('cancel-download').onclick = () => abort.abort();
  setBusy(downloadForm, true);
  progress.hidden = false;
  progress.removeAttribute('value');
  show('download-state', 'Preparing …');
  try {
    const file = await client.downloadExport({
      environmentId: session.environmentId,
      aggregation: /** @type {never} */ (field(downloadForm, 'aggregation').value),
      format: /** @type {'csv' | 'csv.gz' | 'parquet'} */ (field(downloadForm, 'format').value),
      signal: abort.signal,
      onProgress: ({ receivedBytes, totalBytes }) => {
        const total = totalBytes === null ? '' : ` of ${size(totalBytes)}`;
        show('download-state', `${size(receivedBytes)}${total}`);
        if (totalBytes !== null) {
          progress.max = totalBytes;
          progress.value = receivedBytes;
        }
      },
    });
    // The body ends only if the file is complete.
    const link = document.createElement('a');
    link.href = URL.createObjectURL(await new Response(file.body).blob());
    link.download = file.fileName;
    link.click();
    URL.revokeObjectURL(link.href);
    show('download-state', `${file.fileName}: ${file.rowCount.toLocaleString()} rows`);
  } catch (error) {
    show('download-state', abort.signal.aborted ? 'Cancelled' : messageOf(error));
  } finally {
    progress.hidden = true;
    setBusy(downloadForm, false);
  }
}

/** @param {HTMLFormElement} form @param {boolean} isBusy */
function setBusy(form, isBusy) {
  const button = form.querySelector('button');
  if (button) button.disabled = isBusy;
  if (form === downloadForm) element('cancel-download').hidden = !isBusy;
}

// Automatic export

/** @param {string | null} [chosenId] id of the config to show */
async function loadConfigs(chosenId = null) {
  configs = [];
  for await (const config of client.iterate('listExportConfigs', { path })) configs.push(config);
  current = configs.find(({ id }) => id === chosenId) ?? configs[0] ?? null;
  choice.replaceChildren(
    ...configs.map(({ id, name }) => new Option(name, id)),
    new Option('New export …', ''),
  );
  element('choice').hidden = configs.length === 0;
  await showConfig();
}

async function showConfig() {
  choice.value = current?.id ?? '';
  enabled.checked = current?.enabled ?? true;
  const values = current ?? { name: 'Nightly export', provider: 'aws', ...session.defaults };
  for (const input of configForm.querySelectorAll('input, select')) {
    const { name, type } = /** @type {HTMLInputElement} */ (input);
    if (type === 'radio' || name === 'secretAccessKey') continue;
    const value = /** @type {Record<string, unknown>} */ (values)[name];
    if (name !== 'schedule' || value) field(configForm, name).value = String(value ?? '');
  }
  if (!current) field(configForm, 'schedule').value = 'daily';
  const hasRole = Boolean(/** @type {Record<string, unknown>} */ (values)['roleArn']);
  field(configForm, 'access').value = hasRole ? 'role' : 'keys';
  const secret = field(configForm, 'secretAccessKey');
  secret.value = '';
  secret.placeholder = current && !hasRole ? 'unchanged' : '';
  clearErrors();
  showFields();
  await showStatus();
}

/** Shows the fields of the chosen provider. */
function showFields() {
  const provider = field(configForm, 'provider').value;
  const access = provider === 'aws' ? field(configForm, 'access').value : 'keys';
  for (const part of configForm.querySelectorAll('.fields > *')) {
    const { providers, access: wanted } = /** @type {HTMLElement} */ (part).dataset;
    const fits =
      (providers?.split(' ').includes(provider) ?? true) && (wanted ?? access) === access;
    /** @type {HTMLElement} */ (part).hidden = !fits;
  }
  element('external-id').hidden = access !== 'role';
}

async function showExternalId() {
  const { externalId } = await client.api.getEnvironment({ path });
  show('external-id', `External ID for the trust policy of the role: ${externalId}`);
}

/** @type {ReturnType<typeof setTimeout> | undefined} Timer of the next read of the status. */
let poll;
/** Newest read of the status. The page ignores the answers of earlier ones. */
let newestRead = 0;

/** Reads status and history of the shown config. Reads them again while a run is unfinished. */
async function showStatus() {
  clearTimeout(poll);
  newestRead += 1;
  const read = newestRead;
  const config = current;
  element('status').hidden = config === null;
  element('history').hidden = config === null;
  if (config === null) return;
  const configPath = { ...path, configId: config.id };
  // The runs first: the status then knows the end of every run that the list shows as ended.
  const runs = await client.api.listRuns({ path: configPath, query: { limit: 10 } });
  const status = await client.api.getExportConfigStatus({ path: configPath });
  if (read !== newestRead) return;
  show('last-export', localTime(status.lastRunAt, 'Never'));
  const style = { successful: 'success', failed: 'failed', 'never ran before': '' }[status.status];
  const { currentRun } = status;
  // A run may end between both answers.
  const isUnfinished = currentRun !== null || runs.items.some(run => run.finishedAt === null);
  const progressOfRun = currentRun === null ? 'Running …' : describeProgress(currentRun);
  show('result', isUnfinished ? progressOfRun : sentence(status.status), style || 'none');
  show('next-export', localTime(status.nextRunAt, config.enabled ? 'Not planned' : 'Turned off'));
  const error = currentRun?.error ?? status.error;
  show('run-error', error === null ? '' : [error.message, error.hint].filter(Boolean).join(' '));
  show('turned-off', status.turnedOff?.message ?? '');
  runNow.disabled = isUnfinished;
  element('runs').replaceChildren(
    ...runs.items.map(run => {
      const row = document.createElement('tr');
      const rows = run.rowCount === null ? '' : run.rowCount.toLocaleString();
      for (const text of [
        ...[localTime(run.startedAt, 'Waiting'), run.snapshotDate, sentence(run.state), rows],
      ]) {
        row.insertCell().textContent = text;
      }
      return row;
    }),
  );
  if (!isUnfinished) return;
  // An attempt takes seconds to minutes. A run may wait for hours.
  const isLong = currentRun?.waitingFor === 'snapshot' || currentRun?.waitingFor === 'retry';
  poll = setTimeout(() => void showStatus().catch(showPageError), isLong ? 5000 : 1000);
}

/** @param {import('@warehouse-export/client').CurrentRun} run */
function describeProgress({ waitingFor, snapshotDate, nextAttemptAt }) {
  switch (waitingFor) {
    case 'snapshot':
      return `Waiting for the data of ${snapshotDate}`;
    case 'worker':
      return 'Starting soon';
    case 'retry':
      return nextAttemptAt === null
        ? 'Waiting for the next attempt'
        : `Waiting for the next attempt at ${localTime(nextAttemptAt, '')}`;
    default:
      return 'Running …';
  }
}

/** @param {string} text */
const sentence = text => text.charAt(0).toUpperCase() + text.slice(1);

/** Returns the visible fields as a body. */
function readForm() {
  /** @type {Record<string, unknown>} */
  const body = { enabled: enabled.checked };
  for (const label of configForm.querySelectorAll('[data-field]')) {
    const { dataset, hidden } = /** @type {HTMLElement} */ (label);
    const name = dataset['field'] ?? '';
    const { value } = field(configForm, name);
    // An empty secret keeps the stored one.
    if (!hidden && !(name === 'secretAccessKey' && value === '' && current)) body[name] = value;
  }
  // Null removes the role when the user changes to an access key.
  if (current?.roleArn && !('roleArn' in body)) body['roleArn'] = null;
  return /** @type {never} */ (body);
}

async function save() {
  clearErrors();
  setBusy(configForm, true);
  show('save-state', 'Checking the bucket …');
  try {
    const { id } = current
      ? await client.api.updateExportConfig({
          path: { ...path, configId: current.id },
          body: readForm(),
        })
      : await client.api.createExportConfig({ path, body: readForm() });
    await loadConfigs(id);
    show('save-state', 'Saved');
  } catch (error) {
    show('save-state', 'Not saved');
    showSaveError(error);
  } finally {
    setBusy(configForm, false);
  }
}

/** Field that a storage error belongs to. Other errors are shown below the form. */
const fieldOfStorageError = {
  access_key_not_recognised: ['accessKeyId'],
  secret_key_mismatch: ['secretAccessKey'],
  role_denied: ['roleArn'],
  external_id_not_enforced: ['roleArn'],
  bucket_not_found: ['bucket', 'bucketUrl'],
  list_denied: ['bucket', 'bucketUrl'],
  write_denied: ['bucket', 'bucketUrl'],
  wrong_region: ['region', 'bucketUrl'],
  endpoint_not_allowed: ['endpoint'],
  endpoint_unreachable: ['endpoint'],
  tls_error: ['endpoint'],
  timeout: ['endpoint'],
  not_s3: ['endpoint'],
};

/** @param {unknown} error */
function showSaveError(error) {
  if (error instanceof ApiError && error.problem.code === 'storage_validation_failed') {
    const { code, message, hint } = error.problem.storageError;
    const names = /** @type {Record<string, string[]>} */ (fieldOfStorageError)[code] ?? [];
    return showFieldError(names, [message, hint].filter(Boolean).join(' '));
  }
  if (error instanceof ApiError && error.problem.code === 'validation_failed') {
    for (const { path, message } of error.problem.errors ?? []) {
      const name = path?.split('/').at(-1) ?? '';
      showFieldError([name], sentence(message), name);
    }
    return;
  }
  show('form-error', messageOf(error));
}

/** @param {string[]} names @param {string} text @param {string} [otherwise] */
function showFieldError(names, text, otherwise = '') {
  const label = names
    .map(name => configForm.querySelector(`[data-field="${CSS.escape(name)}"]`))
    .find(found => found instanceof HTMLElement && !found.hidden);
  if (!(label instanceof HTMLElement)) {
    const before = element('form-error').textContent;
    show('form-error', [before, otherwise, text].filter(Boolean).join(' '));
    return;
  }
  const input = field(configForm, label.dataset['field'] ?? '');
  const note = document.createElement('span');
  note.className = 'field-error';
  note.id = `error-${input.name}`;
  note.textContent = text;
  label.append(note);
  input.setAttribute('aria-invalid', 'true');
  input.setAttribute('aria-describedby', note.id);
  configForm.querySelector('[aria-invalid]') === input && input.focus();
}

function clearErrors() {
  show('form-error', '');
  show('save-state', '');
  for (const note of configForm.querySelectorAll('.field-error')) note.remove();
  for (const input of configForm.querySelectorAll('[aria-invalid]')) {
    input.removeAttribute('aria-invalid');
    input.removeAttribute('aria-describedby');
  }
}

async function toggle() {
  if (current === null) return;
  clearErrors();
  try {
    const body = { enabled: enabled.checked };
    await client.api.updateExportConfig({ path: { ...path, configId: current.id }, body });
    await loadConfigs(current.id);
  } catch (error) {
    enabled.checked = !enabled.checked;
    showSaveError(error);
  }
}

async function startRun() {
  if (current === null) return;
  runNow.disabled = true;
  try {
    const run = await client.api.startRun({ path: { ...path, configId: current.id } });
    show('run-state', `Started for ${run.snapshotDate}`);
    await showStatus();
  } catch (error) {
    runNow.disabled = false;
    show('run-state', messageOf(error));
  }
}

/** @param {unknown} error */
function showPageError(error) {
  show('page-error', messageOf(error));
}

/** @param {HTMLElement} target @param {string} type @param {() => unknown} action */
function on(target, type, action) {
  target.addEventListener(type, event => {
    if (type === 'submit') event.preventDefault();
    Promise.resolve(action()).catch(showPageError);
  });
}

on(downloadForm, 'submit', download);
on(downloadForm, 'change', showSize);
on(configForm, 'submit', save);
on(configForm, 'change', showFields);
on(enabled, 'change', toggle);
on(runNow, 'click', startRun);
on(choice, 'change', () => {
  current = configs.find(({ id }) => id === choice.value) ?? null;
  return showConfig();
});

await Promise.all([loadExports(), loadConfigs(), showExternalId()]).catch(showPageError);
document.documentElement.dataset['ready'] = 'true';
