import SerializerSelector from '@fastify/fast-json-stringify-compiler';
import { lazily } from '../shared/lazily.ts';

type BuildSerializer = SerializerSelector.SerializerFactory;

/**
 * Returns a factory of serializer compilers that compiles equal response schemas once, for the
 * first response. Nearly every status of every route answers with the same problem schema.
 * Compiling all schemas takes a large part of the CPU time in which the service starts.
 */
export function createSerializerFactory(): BuildSerializer {
  const build = SerializerSelector();
  const compiled = new Map<string, SerializerSelector.Serializer>();
  return (referenced, options) => {
    const compile = build(referenced, options);
    const prefix = JSON.stringify(referenced);
    return route => {
      const key = `${prefix}\n${JSON.stringify(route.schema)}`;
      const serializer = compiled.get(key) ?? lazily(() => compile(route));
      compiled.set(key, serializer);
      return serializer;
    };
  };
}
