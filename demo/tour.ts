/** A command that works as printed, in bash, with curl and nothing else that a system may lack. */
export interface TourStop {
  readonly title: string;
  readonly command: string;
}

export interface TourSection {
  readonly title: string;
  readonly stops: readonly TourStop[];
}

/** What the commands are about: the service and one API key for each of its environments. */
export interface TourPlaces {
  /** Origin of the service. */
  readonly url: string;
  readonly freeKey: string;
  readonly proKey: string;
}

/** The downloads by hand, from the list of exports to a plan that does not allow them. */
export function manualExportTour({ url, freeKey, proKey }: TourPlaces): TourSection {
  const curl = (path: string, options = '-sS', key = proKey) =>
    `curl ${options} -H 'Authorization: Bearer ${key}' ${url}/v1/environments/${path}`;
  // JSON ends without a line break, which would put the prompt behind it.
  const curlJson = (path: string, key = proKey) => curl(path, "-sS -w '\\n'", key);
  const makeLink = `${curl('demo-pro/download-links')} -H 'Content-Type: application/json' -d '{"aggregation":"today"}'`;
  return {
    title: 'Download by hand (plan pro)',
    stops: [
      { title: 'What there is to download', command: curlJson('demo-pro/exports') },
      {
        title: 'Today, the first lines',
        command: `${curl('demo-pro/exports/today.csv')} | sed -n 1,3p`,
      },
      {
        title: 'Each of the last 30 days, saved under the name that the service proposes',
        command: `(cd "$(mktemp -d)" && ${curl('demo-pro/exports/30-days-daily.csv', '-sSOJ')} && wc -l "$PWD"/*.csv)`,
      },
      {
        title: 'Three months of weeks, the rows of each Sunday counted',
        command: `${curl('demo-pro/exports/3-months-weekly.csv')} | grep -oE ',f[0-9]+,[0-9]{4}-[0-9]{2}-[0-9]{2},' | cut -d, -f3 | uniq -c`,
      },
      {
        title: 'Six months of weeks: how much that is, known before the first byte',
        command: curl('demo-pro/exports/6-months-weekly.csv', '-sSI'),
      },
      {
        title: 'The same as a gzip file',
        command: `${curl('demo-pro/exports/6-months-weekly.csv.gz')} | gunzip | tail -n 2`,
      },
      {
        title: 'The 18 columns',
        command: `${curl('demo-pro/exports/today.csv')} | sed -n 1p | tr ',' '\\n' | cat -n`,
      },
      {
        title: 'A link that a browser can follow without a key, for five minutes',
        command: `link=$(${makeLink} | sed 's/.*"url":"\\([^"]*\\)".*/\\1/'); echo "$link"; curl -sS "$link" | sed -n 1,3p`,
      },
      {
        title: 'A plan that does not include it: 403 plan_upgrade_required',
        command: curlJson('demo-free/exports/today.csv', freeKey),
      },
      {
        title: 'A key of another environment: 404, as if there were no such place',
        command: curlJson('demo-enterprise/exports/today.csv'),
      },
    ],
  };
}

/** Plain lines, so that each command can be taken with a triple click. */
export function formatTour(sections: readonly TourSection[]): string {
  return sections
    .map(section => {
      const stops = section.stops.map(stop => `# ${stop.title}\n${stop.command}\n`);
      return `── ${section.title} ──\n\n${stops.join('\n')}`;
    })
    .join('\n');
}
