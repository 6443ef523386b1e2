// Exclude patterns as people type them.

/** The patterns of a text, a line each; blank lines and comments are none. */
export const patterns = (text: string): string[] =>
  text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));
