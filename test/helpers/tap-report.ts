/** Totals of a whole run, by tap's own count of assertions. */
export interface TapTotals {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

export interface TapReport {
  /** Processes raw TAP output. */
  write(chunk: string): void;
  /** Returns the totals at the end. Null if tap ended without a summary. */
  totals(): TapTotals | null;
  /** `file > test: reason` for each test that was skipped or is a todo. */
  readonly skipped: readonly string[];
}

/**
 * Prints a line for each passed file, and the whole output of each failed file. tap's own reporters
 * render the screen again for each assertion: 2 ms of CPU time each, so minutes in the whole suite.
 */
export function createTapReport(print: (text: string) => void): TapReport {
  const skipped: string[] = [];
  let totals: TapTotals | null = null;
  let rest = '';
  let block: string[] = [];
  let isInDiagnostics = false;
  let isFailedFile = false;

  const flush = (): void => {
    if (isFailedFile) print(`${block.filter(line => !/^ +ok \d+/.test(line)).join('\n')}\n`);
    block = [];
    isFailedFile = false;
  };

  const takeLine = (line: string): void => {
    if (line.startsWith('# Subtest: ')) flush();
    block.push(line);
    if (/^ *---$/.test(line)) isInDiagnostics = true;
    if (/^ *\.\.\.$/.test(line)) isInDiagnostics = false;
    if (isInDiagnostics) return;
    totals = summary(line) ?? totals;
    const left = /^ +(?:not )?ok \d+(?: - (.*?))? # (SKIP|TODO)\b *(.*)$/i.exec(line);
    if (left !== null) {
      skipped.push(`${fileOf(block)} > ${left[1] ?? ''}: ${left[3] || left[2]?.toLowerCase()}`);
    }
    if (/^not ok \d+/.test(line)) isFailedFile = true;
    if (/^ok \d+ - /.test(line)) print(`${line.replace(/^ok \d+ - /, 'ok      ')}\n`);
  };

  return {
    write(chunk) {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      lines.forEach(takeLine);
    },
    totals() {
      flush();
      return totals;
    },
    skipped,
  };
}

function fileOf(block: readonly string[]): string {
  return block.find(line => line.startsWith('# Subtest: '))?.slice('# Subtest: '.length) ?? '?';
}

/** Parses tap's closing comment, such as `# { total: 5, pass: 1, fail: 1, todo: 1, skip: 2 }`. */
function summary(line: string): TapTotals | null {
  if (!/^# \{ total: \d+/.test(line)) return null;
  const count = (name: string) => Number(new RegExp(`\\b${name}: (\\d+)`).exec(line)?.[1] ?? 0);
  return { passed: count('pass'), failed: count('fail'), skipped: count('skip') + count('todo') };
}
