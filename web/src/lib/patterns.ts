// Exclude patterns as users type them.

/** Returns the patterns of a text, one per line, without blank lines and comments. */
export const patterns = (text: string): string[] =>
  text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));

/** The settings that leave out parts of a folder. */
export interface Limits {
  one_file_system: boolean;
  exclude_caches: boolean;
}

/** Returns the limits that an edit has changed. */
export const limitsEdit = (before: Limits, now: Limits): Partial<Limits> => ({
  ...(before.one_file_system === now.one_file_system
    ? {}
    : { one_file_system: now.one_file_system }),
  ...(before.exclude_caches === now.exclude_caches ? {} : { exclude_caches: now.exclude_caches }),
});

/** Returns the fields of a folder that an edit has changed. Unchanged fields are
 * not sent, so that the form does not reformat patterns that the user left alone. */
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
