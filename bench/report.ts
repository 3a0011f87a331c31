import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { type Bench, describeGoal, formatNumber, type Section } from './bench.ts';

const root = path.join(import.meta.dirname, '..');

export interface Report {
  readonly sections: readonly Section[];
  /** Machine and versions of the measurement, and the load of the machine. */
  readonly machine: readonly string[];
}

export async function describeMachine(bench: Bench, loadAtStart: number): Promise<string[]> {
  const { rows } = await bench.pool.query<{
    version: string;
    shared_buffers: string;
    fsync: string;
  }>(
    `select split_part(version(), ' on ', 1) as version, current_setting('shared_buffers') as shared_buffers, current_setting('fsync') as fsync`,
  );
  const [database] = rows;
  const cpus = os.cpus();
  return [
    `${new Date().toISOString().slice(0, 16)}Z, commit ${commit()}`,
    `${cpus.length} × ${cpus[0]?.model.trim()}, ${Math.round(os.totalmem() / 2 ** 30)} GiB, ${os.type()} ${os.release()}`,
    `Node ${process.version}, ${database?.version} (shared_buffers ${database?.shared_buffers}, fsync ${database?.fsync})`,
    `load average at the start ${loadAtStart.toFixed(1)}, at the end ${(os.loadavg()[0] ?? 0).toFixed(1)} (the bench itself included)`,
    `${bench.rows.toLocaleString('en')} rows, medians of ${bench.rounds} unless said otherwise`,
  ];
}

function commit(): string {
  try {
    return execFileSync('git', ['rev-parse', '--short', 'HEAD'], {
      cwd: root,
      encoding: 'utf8',
    }).trim();
  } catch {
    return 'unknown';
  }
}

export function asText({ sections, machine }: Report): string {
  const tables = sections.map(({ title, columns, rows, goals, notes }) => {
    const widths = columns.map((column, index) =>
      Math.max(column.length, ...rows.map(row => row[index]?.length ?? 0)),
    );
    const line = (cells: readonly string[]) =>
      cells
        .map((cell, index) =>
          index === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[index] ?? 0),
        )
        .join('  ');
    return [title, ...[columns, ...rows].map(line), ...notes, ...goals.map(describeGoal)].join(
      '\n',
    );
  });
  return `${[machine.join('\n'), ...tables].join('\n\n')}\n`;
}

function asMarkdown({ sections, machine }: Report): string {
  const tables = sections.map(({ title, columns, rows, goals, notes }) => {
    const line = (cells: readonly string[]) =>
      `| ${cells.map(cell => cell.replaceAll('|', '\\|')).join(' | ')} |`;
    const table =
      rows.length === 0
        ? []
        : [
            line(columns),
            line(columns.map((_, index) => (index === 0 ? '---' : '---:'))),
            ...rows.map(line),
            '',
          ];
    return [
      `### ${title}`,
      '',
      ...table,
      ...notes.flatMap(note => [note, '']),
      ...goals.map(goal => `- ${describeGoal(goal)}`),
    ].join('\n');
  });
  return `${[machine.map(line => `- ${line}`).join('\n'), ...tables].join('\n\n')}\n`;
}

/** Draws the rows per second of all contenders as bars on a logarithmic scale. */
function asSvg({ sections }: Report): string {
  const bars = sections.flatMap(section => section.bars);
  const left = 270;
  const width = 900;
  const rowHeight = 24;
  const height = 60 + bars.length * rowHeight;
  const exponents = bars.map(bar => Math.log10(bar.rowsPerSecond));
  const low = Math.floor(Math.min(...exponents));
  const high = Math.ceil(Math.max(...exponents));
  const x = (exponent: number) => left + ((exponent - low) / (high - low)) * (width - left - 100);
  const asXml = (text: string) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  const grid = Array.from({ length: high - low + 1 }, (_, index) => low + index).map(
    exponent =>
      `<line x1="${x(exponent)}" y1="30" x2="${x(exponent)}" y2="${height - 20}" stroke="#ddd"/>` +
      `<text x="${x(exponent)}" y="22" text-anchor="middle" fill="#555">${formatNumber(10 ** exponent)}</text>`,
  );
  const drawn = bars.map(({ name, rowsPerSecond }, index) => {
    const y = 36 + index * rowHeight;
    const end = x(Math.log10(rowsPerSecond));
    const colour = name.startsWith('service') ? '#1f6feb' : '#8c959f';
    return (
      `<text x="${left - 8}" y="${y + 13}" text-anchor="end">${asXml(name)}</text>` +
      `<rect x="${left}" y="${y}" width="${(end - left).toFixed(1)}" height="18" fill="${colour}"/>` +
      `<text x="${(end + 6).toFixed(1)}" y="${y + 13}" fill="#333">${formatNumber(rowsPerSecond)}</text>`
    );
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">
<title>Rows per second of this service and of other solutions</title>
<rect width="${width}" height="${height}" fill="#fff"/>
<text x="${left - 8}" y="22" text-anchor="end" font-weight="bold">rows per second</text>
${[...grid, ...drawn].join('\n')}
</svg>
`;
}

const startMark = '<!-- bench: from here to the next mark the bench writes -->';
const endMark = '<!-- bench: end -->';

/**
 * Writes the report to `bench/out`. With `intoDocs`, also writes table and plot to
 * docs/performance.md.
 */
export function writeReport(report: Report, intoDocs: boolean): void {
  const out = path.join(import.meta.dirname, 'out');
  fs.mkdirSync(out, { recursive: true });
  fs.writeFileSync(path.join(out, 'report.json'), `${JSON.stringify(report, null, 2)}\n`);
  fs.writeFileSync(path.join(out, 'performance.svg'), asSvg(report));
  if (!intoDocs) return;
  fs.writeFileSync(path.join(root, 'docs/performance.svg'), asSvg(report));
  const file = path.join(root, 'docs/performance.md');
  const text = fs.readFileSync(file, 'utf8');
  const [before, rest] = text.split(startMark);
  const after = rest?.split(endMark)[1];
  if (before === undefined || after === undefined)
    throw new Error('docs/performance.md lacks the marks of the bench');
  fs.writeFileSync(file, `${before}${startMark}\n\n${asMarkdown(report)}\n${endMark}${after}`);
}
