/** Without the keys that are undefined: what `exactOptionalPropertyTypes` asks for. */
export function withoutUndefined<T extends object>(
  query: T,
): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(query).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>
  }
}
