/**
 * Calls `fn` for each of `items`, at most `width` calls at a time, and yields the results in order. A failure is thrown at its turn; the other calls
 * under way are left to settle.
 */
export async function* mapOrdered<T, R>(
  items: Iterable<T>,
  width: number,
  fn: (item: T) => Promise<R>,
): AsyncGenerator<R> {
  const under: Promise<R>[] = []
  for (const item of items) {
    const result = fn(item)
    // If another failure ends the stream first, nobody awaits this one: it must not count as unhandled.
    result.catch(() => {})
    under.push(result)
    if (under.length >= width) yield await under.shift()!
  }
  for (const result of under) yield await result
}
