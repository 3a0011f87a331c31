import { randomBytes } from 'node:crypto';
import t from 'tap';
import type { EncryptionKey } from '../../src/config/config.ts';
import { isSealedUnderFirstKey, openSecret, sealSecret } from '../../src/encryption/secrets.ts';

const oldKey: EncryptionKey = { id: 'old', key: randomBytes(32) };
const newKey: EncryptionKey = { id: 'new', key: randomBytes(32) };
const owner = { environmentId: 'prod', configId: '1' };

t.test('opens a sealed value', async t => {
  for (const text of ['', 'a', 'ab/c+d=', 'ünïcödé 🔑', 'x'.repeat(10_000)]) {
    const sealed = sealSecret([oldKey], text, owner);
    t.equal(openSecret([oldKey], sealed, owner), text);
    if (text.length > 6)
      for (const shape of [text, Buffer.from(text).toString('base64url').slice(0, 8)])
        t.notOk(sealed.includes(shape));
    t.match(sealed, /^v1\.old\.[\w-]+$/);
  }
});

t.test('seals the same text to a new value each time', async t => {
  const values = Array.from({ length: 100 }, () => sealSecret([oldKey], 'text', owner));
  t.equal(new Set(values).size, 100);
});

t.test('refuses a value that was copied to another row', async t => {
  const sealed = sealSecret([oldKey], 'text', owner);
  for (const other of [
    { environmentId: 'prod', configId: '2' },
    { environmentId: 'staging', configId: '1' },
    { environmentId: 'prod","1', configId: '' },
    { environmentId: '', configId: 'prod1' },
  ]) {
    t.throws(() => openSecret([oldKey], sealed, other), /does not open/);
  }
});

t.test('refuses a value with any bit changed', async t => {
  const sealed = sealSecret([oldKey, newKey], 'text', owner);
  const [version, id, encoded] = sealed.split('.') as [string, string, string];
  const bytes = Buffer.from(encoded, 'base64url');
  for (let bit = 0; bit < bytes.length * 8; bit += 1) {
    const changed = Buffer.from(bytes);
    changed.writeUInt8(changed.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
    t.throws(
      () => openSecret([oldKey], `${version}.${id}.${changed.toString('base64url')}`, owner),
      /does not open/,
    );
  }
  for (let length = 0; length < sealed.length; length += 1) {
    t.throws(() => openSecret([oldKey], sealed.slice(0, length), owner));
  }
  for (const bad of [
    `${sealed}A`,
    `${sealed}=`,
    sealed.replace('v1', 'v2'),
    sealed.replace('.old.', '.new.'),
  ]) {
    t.throws(() => openSecret([oldKey, newKey], bad, owner));
  }
});

t.test('refuses a value with changed spare bits of its encoding', async t => {
  // This length leaves spare bits in the last character.
  const sealed = sealSecret([oldKey], 'tex', owner);
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
  const others = [...alphabet]
    .map(last => sealed.slice(0, -1) + last)
    .filter(value => value !== sealed);
  for (const value of others) t.throws(() => openSecret([oldKey], value, owner));
});

t.test('opens with every key and seals with the first', async t => {
  const sealed = sealSecret([oldKey], 'text', owner);
  const keys: [EncryptionKey, EncryptionKey] = [newKey, oldKey];
  t.equal(isSealedUnderFirstKey([oldKey], sealed), true);
  t.equal(isSealedUnderFirstKey(keys, sealed), false);
  const moved = sealSecret(keys, openSecret(keys, sealed, owner), owner);
  t.equal(isSealedUnderFirstKey(keys, moved), true);
  t.equal(openSecret([newKey], moved, owner), 'text', 'the old key is no longer needed');
  t.throws(
    () => openSecret([newKey], sealed, owner),
    /sealed under the key "old", which is not configured/,
  );
});

t.test('does not show the value in error messages', async t => {
  const sealed = sealSecret([oldKey], 'text', owner);
  for (const value of [sealed.slice(0, -1), `${sealed}.`, 'hunter2-in-clear']) {
    try {
      openSecret([oldKey], value, owner);
      t.fail('opened');
    } catch (error) {
      t.notMatch(String(error), value.slice(-12));
    }
  }
});
