/**
 * `fn` over `items` with at most `width` calls under way, results in order. A failure is thrown at its turn; calls under way
 * are then left to settle by themselves.
 */
export async function* mapOrdered<T, R>(
  items: Iterable<T>,
  width: number,
  fn: (item: T) => Promise<R>,
): AsyncGenerator<R> {
  const under: Promise<R>[] = []
  for (const item of items) {
    const result = fn(item)
    // Its turn may come after another failure ended the stream: the rejection must not count as unhandled.
    result.catch(() => {})
    under.push(result)
    if (under.length >= width) yield await under.shift()!
  }
  for (const result of under) yield await result
}
