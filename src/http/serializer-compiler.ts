import SerializerSelector from '@fastify/fast-json-stringify-compiler';

type BuildSerializer = SerializerSelector.SerializerFactory;

/**
 * Returns a factory of serializer compilers that compiles equal response schemas once. Nearly every
 * status of every route answers with the same problem schema. Compiling it each time takes half of
 * the CPU time in which the service starts.
 */
export function createSerializerFactory(): BuildSerializer {
  const build = SerializerSelector();
  const compiled = new Map<string, SerializerSelector.Serializer>();
  return (referenced, options) => {
    const compile = build(referenced, options);
    const prefix = JSON.stringify(referenced);
    return route => {
      const key = `${prefix}\n${JSON.stringify(route.schema)}`;
      const serializer = compiled.get(key) ?? compile(route);
      compiled.set(key, serializer);
      return serializer;
    };
  };
}
