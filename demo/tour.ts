/** A command that works as printed, in bash, with curl and standard tools. */
export interface TourStop {
  readonly title: string;
  /** One or more lines of at most 100 columns. */
  readonly command: string;
}

export interface TourSection {
  readonly title: string;
  readonly stops: readonly TourStop[];
}

/** Shell variables that the commands use: the address of all environments and three API keys. */
export interface TourVariables {
  readonly api: string;
  readonly free_key: string;
  readonly pro_key: string;
  readonly enterprise_key: string;
}

/** Width of a terminal in which the output of the demo fits. */
const columns = 100;

/** Returns the commands of manual downloads, from the list of exports to a plan without them. */
export function manualExportTour(): TourSection {
  const curl = (path: string, options = ['-sS'], key: keyof TourVariables = 'pro_key') =>
    curlWords(path, key, options);
  // JSON does not end with a line break. Without one, the prompt would follow on the same line.
  const curlJson = (path: string, key?: keyof TourVariables) =>
    curl(path, ['-sS', `-w '\\n'`], key);
  const makeLink = [
    ...curl('demo-pro/download-links'),
    `-H 'Content-Type: application/json' -d '{"aggregation":"today"}'`,
  ];
  return {
    title: 'Download by hand (plan pro)',
    stops: [
      { title: 'The list of exports', command: wrap(curlJson('demo-pro/exports')) },
      {
        title: 'The first lines of today’s file',
        command: wrap([...curl('demo-pro/exports/today.csv'), '| sed -n 1,3p']),
      },
      {
        title: 'The last 30 days, saved under the file name that the service sends',
        command: wrap([
          '(cd "$(mktemp -d)" &&',
          ...curl('demo-pro/exports/30-days-daily.csv', ['-sSOJ']),
          '&& wc -l "$PWD"/*.csv)',
        ]),
      },
      {
        title: 'Three months in weeks: the number of rows of each Sunday',
        command: wrap([
          ...curl('demo-pro/exports/3-months-weekly.csv'),
          "| grep -oE ',f[0-9]+,[0-9]{4}-[0-9]{2}-[0-9]{2},'",
          '| cut -d, -f3 | uniq -c',
        ]),
      },
      {
        title: 'Six months in weeks: the headers, with the number of rows',
        command: wrap(curl('demo-pro/exports/6-months-weekly.csv', ['-sSI'])),
      },
      {
        title: 'Six months in weeks as a gzip file',
        command: wrap([...curl('demo-pro/exports/6-months-weekly.csv.gz'), '| gunzip | tail -n 2']),
      },
      {
        title: 'The 18 columns',
        command: wrap([
          ...curl('demo-pro/exports/today.csv'),
          `| sed -n 1p | tr ',' '\\n' | cat -n`,
        ]),
      },
      {
        title: 'A link that works without a key for five minutes, for a browser',
        command: [
          wrap(['link=$(', ...makeLink, `| sed 's/.*"url":"\\([^"]*\\)".*/\\1/')`]),
          'echo "$link"; curl -sS "$link" | sed -n 1,3p',
        ].join('\n'),
      },
      {
        title: 'A plan without this export: 403 plan_upgrade_required',
        command: wrap(curlJson('demo-free/exports/today.csv', 'free_key')),
      },
      {
        title: 'A key of another environment: 404, as if the environment did not exist',
        command: wrap(curlJson('demo-enterprise/exports/today.csv')),
      },
    ],
  };
}

/** Returns the words of a curl command for a path below the environments. */
export function curlWords(
  path: string,
  key: keyof TourVariables,
  options: readonly string[],
): string[] {
  return ['curl', ...options, `-H "Authorization: Bearer $${key}"`, `$api/${path}`];
}

/** Joins words to lines that fit the terminal, with a backslash before each line break. */
export function wrap(words: readonly string[]): string {
  const lines: string[] = [];
  for (const word of words) {
    const line = lines.at(-1);
    const longer = `${line} ${word}`;
    // Room for " \\" at the end.
    if (line !== undefined && longer.length <= columns - 2) lines[lines.length - 1] = longer;
    else lines.push(line === undefined ? word : `  ${word}`);
  }
  return lines.join(' \\\n');
}

/** Returns JSON in single quotes, with line breaks between members where needed to fit. */
export function wrapJson(value: Readonly<Record<string, unknown>>): string {
  const members = Object.entries(value).map(
    ([name, member]) => `${JSON.stringify(name)}:${JSON.stringify(member)}`,
  );
  const lines: string[] = [];
  for (const member of members) {
    const line = lines.at(-1);
    const longer = `${line},${member}`;
    if (line !== undefined && longer.length <= columns - 10) lines[lines.length - 1] = longer;
    else lines.push(member);
  }
  return `'{${lines.join(',\n    ')}}'`;
}

/** Returns the variables as assignments for a shell. */
export function formatVariables(variables: TourVariables): string {
  return Object.entries(variables)
    .map(([name, value]) => `${name}=${value}`)
    .join('\n');
}

/** Returns the commands as plain text, each below a comment with its title. */
export function formatTour(sections: readonly TourSection[]): string {
  return sections
    .map(section => {
      const stops = section.stops.map(stop => `# ${stop.title}\n${stop.command}\n`);
      return `── ${section.title} ──\n\n${stops.join('\n')}`;
    })
    .join('\n');
}
