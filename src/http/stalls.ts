/** Longest time in milliseconds that a download waits for its reader without sending a byte. */
export const stallTimeoutMs = 60_000;
