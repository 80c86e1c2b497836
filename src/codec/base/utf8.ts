import { CodecError, type CodecErrorKind } from './errors.ts'
import { LIMITS } from './limits.ts'

const encoder = new TextEncoder()

/** The UTF-8 bytes of `text`. */
export function utf8(text: string): Uint8Array<ArrayBuffer> {
  return encoder.encode(text)
}

/** Compares by UTF-8 bytes, and so by code points, as Python and Rust do. JavaScript compares UTF-16 units, which differs above U+FFFF. */
export function compareUtf8(a: string, b: string): number {
  const length = Math.min(a.length, b.length)
  for (let i = 0; i < length; i++) {
    const x = a.charCodeAt(i)
    const y = b.charCodeAt(i)
    if (x === y) continue
    // A surrogate belongs to a code point above all that take one unit.
    const xHigh = x >= 0xd800 && x <= 0xdfff
    const yHigh = y >= 0xd800 && y <= 0xdfff
    return xHigh === yHigh ? x - y : xHigh ? 1 : -1
  }
  return a.length - b.length
}

/**
 * Refuses a tensor name that is empty, longer than LIMITS.nameBytes, holds a control character or half a surrogate pair, or is
 * `__metadata__`, which safetensors gives another meaning.
 * @throws CodecError `name`
 */
export function checkName(kind: CodecErrorKind, name: string, offset: number | null): void {
  const shown = JSON.stringify(name.slice(0, 80))
  const refuse = (why: string) => {
    throw new CodecError(kind, 'name', `tensor name ${shown}: ${why}`, offset)
  }
  if (name.length === 0) refuse('expected at least one character')
  // UTF-8 has at least as many bytes as UTF-16 has units: a longer name need not be encoded.
  if (name.length > LIMITS.nameBytes || utf8(name).length > LIMITS.nameBytes) {
    refuse(`expected at most ${LIMITS.nameBytes} bytes`)
  }
  if (/\p{Cc}/u.test(name)) refuse('expected no control characters')
  if (!name.isWellFormed()) refuse('expected valid Unicode')
  if (name === '__metadata__') refuse('expected no tensor of this name')
}
