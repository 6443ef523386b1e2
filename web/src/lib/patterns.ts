// Exclude patterns as people type them.

/** The patterns of a text, a line each; blank lines and comments are none. */
export const patterns = (text: string): string[] =>
  text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));

/** What an edit of a folder changes: what was not touched is not sent, so that
 * patterns that this form would write otherwise stay as they are. */
export function folderEdit(
  name: string,
  exclude: string[],
  typedName: string,
  typedExclude: string,
): { name?: string; exclude?: string[] } {
  return {
    ...(typedName.trim() === name ? {} : { name: typedName.trim() }),
    ...(typedExclude === exclude.join("\n") ? {} : { exclude: patterns(typedExclude) }),
  };
}
