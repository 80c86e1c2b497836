import { humanBytes } from './terminal.ts'

/** How far a command is, shown on stderr where that is a terminal. */
export interface Progress extends Disposable {
  /** More bytes are done. */
  add(bytes: number): void
}

/** Least time between two drawings, milliseconds. */
const EVERY_MS = 100

/** Begins a line such as `load 12 MB of 300 MB`; disposing of it clears the line. `total` is null where it is not known. */
export function openProgress(label: string, total: number | null): Progress {
  const { stderr } = process
  if (!stderr.isTTY) return { add: () => {}, [Symbol.dispose]: () => {} }
  let done = 0
  let drawn = 0
  return {
    add: bytes => {
      done += bytes
      const now = Date.now()
      if (now - drawn < EVERY_MS) return
      drawn = now
      const of = total === null ? '' : ` of ${humanBytes(total)}`
      stderr.write(`\r\x1b[K${label} ${humanBytes(done)}${of}`)
    },
    [Symbol.dispose]: () => {
      stderr.write('\r\x1b[K')
    },
  }
}
