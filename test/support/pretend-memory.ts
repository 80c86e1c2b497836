import type { Test } from 'tap'

/** Makes this process say that it has `rss` bytes; `set` changes that. */
export function pretendMemory(t: Test, rss: number): { set(bytes: number): void } {
  const { memoryUsage } = process
  let bytes = rss
  const pretended = () => ({ ...memoryUsage(), rss: bytes })
  process.memoryUsage = Object.assign(pretended, { rss: () => bytes })
  t.teardown(() => {
    process.memoryUsage = memoryUsage
  })
  return {
    set: to => {
      bytes = to
    },
  }
}
