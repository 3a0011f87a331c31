import fs from 'node:fs';

/**
 * Secrets of the tests. After the suite, `test/run.ts` searches everything that was printed or
 * logged for them. A test must therefore never print one. Do not copy them to other files.
 */
export const testAdminToken = 'operator-7Yp4QxW2nK9sLr3Vt8Zb5Mc1Hd6Jf0Ga';

export const testEncryptionKeys = {
  first: '2026a:q83vEjRWeJq83v7cuphUMhD+3LqYdlQyEBI0VniavN4=',
  second: '2025b:/ty6mHZUMhASNFZ4mrze/u3LqYdlQyEBI0VniavN7/A=',
};

/** Users of the S3 server, created by `dev/ceph-rgw.sh`. */
const s3Secrets = [
  'full-secret-0123456789',
  'putonly-secret-0123456789',
  'readonly-secret-0123456789',
  'nothing-secret-0123456789',
];

/** File with one secret a line: those that tests created, such as API keys. */
const registryFile = () => process.env['TEST_SECRETS_FILE'];

/**
 * Registers a secret that is known only at run time.
 *
 * @returns the secret
 */
export function registerSecret(secret: string): string {
  if (secret.length < 8 || secret.includes('\n'))
    throw new Error('too short or has a line break: not a secret');
  const file = registryFile();
  if (file !== undefined) fs.appendFileSync(file, `${secret}\n`);
  return secret;
}

/** Returns every secret of the suite, including those of `registerSecret`. */
export function usedSecrets(): Set<string> {
  const file = registryFile();
  const registered =
    file !== undefined && fs.existsSync(file) ? fs.readFileSync(file, 'utf8').split('\n') : [];
  const keys = Object.values(testEncryptionKeys).map(entry => entry.slice(entry.indexOf(':') + 1));
  return new Set(
    [testAdminToken, ...keys, ...s3Secrets, ...registered].filter(secret => secret !== ''),
  );
}
