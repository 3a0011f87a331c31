/** Generates documents from the schema of the variables. */
import { IsOptional } from 'typebox';
import { type VariableSchema, variableEntries } from './read-variables.ts';

const generated = 'Generated from src/config/variables.ts by `npm run configuration`.';

/** Returns the text of `.env.example`. */
export function envExample(): string {
  const blocks = groups().map(([group, entries]) => {
    const lines = entries.map(([name, schema]) => {
      const comment = wrap(`${schema.description} ${remarks(schema).join(' ')}`, 98);
      const assignment = `${isRequired(schema) ? '' : '#'}${name}=${example(schema)}`;
      return [...comment.map(line => `# ${line}`), assignment].join('\n');
    });
    return [`## ${group}`, ...lines].join('\n\n');
  });
  return `# ${generated}\n\n${blocks.join('\n\n')}\n`;
}

/** Returns the text of `docs/configuration.md`. */
export function configurationPage(): string {
  const sections = groups().map(([group, entries]) => {
    const variables = entries.map(([name, schema]) =>
      [
        `### ${name}\n`,
        ...wrap(schema.description, 100),
        '',
        ...remarks(schema).map(remark => `- ${remark}`),
      ].join('\n'),
    );
    return [`## ${group}`, ...variables].join('\n\n');
  });
  return `# Configuration

<!-- ${generated} -->

Environment variables configure the service.
A missing or malformed variable stops the start with one line that names it.
The service trims values and treats a blank variable as absent.
[.env.example](../.env.example) lists the same variables as a file to copy.

${sections.join('\n\n')}
`;
}

function groups(): [string, (typeof variableEntries)[number][]][] {
  return [...Map.groupBy(variableEntries, ([, schema]) => schema.group)];
}

function isRequired(schema: VariableSchema): boolean {
  return schema.default === undefined && !IsOptional(schema);
}

/** Returns the default, or that the variable is required, and the range or the possible values. */
function remarks(schema: VariableSchema): string[] {
  const { minimum, maximum, enum: values } = schema;
  return [
    isRequired(schema) ? 'Required.' : `Default: ${defaultText(schema)}.`,
    ...(minimum === undefined ? [] : [`Range: ${minimum} to ${maximum}.`]),
    ...(values === undefined ? [] : [`Values: ${values.map(value => `\`${value}\``).join(', ')}.`]),
  ];
}

function defaultText(schema: VariableSchema): string {
  if (schema.defaultText !== undefined) return schema.defaultText;
  const { default: value } = schema;
  return value === undefined || Array.isArray(value) ? 'none' : `\`${value}\``;
}

function example(schema: VariableSchema): string {
  return schema.example ?? String(schema.default);
}

/** Wraps text between words, never inside code. */
function wrap(text: string, width: number): string[] {
  const lines = [''];
  for (const word of text.match(/(?:`[^`]*`|[^\s`])+/g) ?? []) {
    const line = lines.at(-1) ?? '';
    if (line === '') lines[lines.length - 1] = word;
    else if (line.length + 1 + word.length <= width) lines[lines.length - 1] = `${line} ${word}`;
    else lines.push(word);
  }
  return lines;
}
