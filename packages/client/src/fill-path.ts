/**
 * Replaces each `{name}` of a path by the encoded value.
 *
 * @throws {TypeError} if a value is missing. Callers in JavaScript have no types that prevent it.
 */
export function fillPath(template: string, values: Readonly<Record<string, unknown>>): string {
  return template.replaceAll(/\{(\w+)\}/g, (_, name: string) => {
    const value = values[name] ?? '';
    if (value === '') throw new TypeError(`The path parameter ${name} is missing`);
    return encodeURIComponent(String(value));
  });
}
