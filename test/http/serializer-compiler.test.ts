import t from 'tap';
import { createSerializerFactory } from '../../src/http/serializer-compiler.ts';

const route = { method: 'GET', url: '/', httpStatus: '200' };
const item = (type: string) => ({ Item: { $id: 'Item', type } });

t.test('compiles equal response schemas once', async t => {
  const factory = createSerializerFactory();
  const compile = factory(item('string'));
  const text = compile({ ...route, schema: { $ref: 'Item#' } });
  t.equal(text('a'), '"a"');
  t.equal(compile({ ...route, url: '/other', schema: { $ref: 'Item#' } }), text);
  t.equal(factory(item('string'))({ ...route, schema: { $ref: 'Item#' } }), text);
});

t.test('compiles a schema again if the schema that it refers to differs', async t => {
  const factory = createSerializerFactory();
  const schema = { $ref: 'Item#' };
  t.equal(factory(item('string'))({ ...route, schema })(5), '"5"');
  t.equal(factory(item('integer'))({ ...route, schema })(5), '5');
});
