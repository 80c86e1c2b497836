import { CodecError, type CodecErrorKind } from './errors.ts'
import { LIMITS } from './limits.ts'

/** Members in file order; keys are distinct. A Map, so that no key is special (`__proto__`) and none is moved (`"1"`). */
export type JsonMembers = ReadonlyMap<string, JsonValue>

/** `text` is the number as written. */
export interface JsonNumber {
  readonly kind: 'number'
  readonly offset: number
  readonly value: number
  readonly text: string
}

/** A value and the byte of the file at which it begins. */
export type JsonValue =
  | { readonly kind: 'object'; readonly offset: number; readonly members: JsonMembers }
  | { readonly kind: 'array'; readonly offset: number; readonly items: readonly JsonValue[] }
  | { readonly kind: 'string'; readonly offset: number; readonly value: string }
  | JsonNumber
  | { readonly kind: 'boolean'; readonly offset: number; readonly value: boolean }
  | { readonly kind: 'null'; readonly offset: number }

const QUOTE = 0x22
const BACKSLASH = 0x5c
const COMMA = 0x2c
const COLON = 0x3a
const MINUS = 0x2d
const ESCAPES: Readonly<Record<string, string>> = {
  '"': '"',
  '\\': '\\',
  '/': '/',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
}
const NUMBER = /^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$/
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/**
 * Parses JSON by RFC 8259 and stricter: UTF-8 without BOM, no key twice in one object, no half surrogate pair, at most
 * LIMITS.jsonDepth levels, LIMITS.jsonItems items in a list, nothing but spaces after the value. `bytes` begins `offset` bytes into its file.
 * @throws CodecError of kind `kind`: `json-utf8`, `json-depth`, `json-items`, `json-syntax`, `json-string`, `json-number`,
 * `duplicate-key`, `json-trailing`
 */
export function parseJson(bytes: Uint8Array, offset: number, kind: CodecErrorKind): JsonValue {
  const parser = new Parser(bytes, offset, kind)
  const value = parser.value(0)
  parser.end()
  return value
}

/** True for a number written as a non-negative integer that a double holds exactly: `2`, not `2.0`, `2e0`, `-0` or 2^53. */
export function isCount(value: JsonValue | undefined): value is JsonNumber {
  return (
    value?.kind === 'number' && /^[0-9]+$/.test(value.text) && Number.isSafeInteger(value.value)
  )
}

/** One cursor over the bytes; every bound is checked by reading past the end as undefined, which no rule accepts. */
class Parser {
  readonly #bytes: Uint8Array
  readonly #base: number
  readonly #kind: CodecErrorKind
  #at = 0

  constructor(bytes: Uint8Array, base: number, kind: CodecErrorKind) {
    this.#bytes = bytes
    this.#base = base
    this.#kind = kind
  }

  /** The next value, `depth` levels down. */
  value(depth: number): JsonValue {
    this.#space()
    const byte = this.#bytes[this.#at]
    if (byte === undefined) return this.#fail('json-syntax', 'the JSON ends where a value is due')
    if (depth > LIMITS.jsonDepth) {
      return this.#fail('json-depth', `expected at most ${LIMITS.jsonDepth} levels of JSON`)
    }
    if (byte === 0x7b) return this.#object(depth)
    if (byte === 0x5b) return this.#array(depth)
    const offset = this.#base + this.#at
    if (byte === QUOTE) return { kind: 'string', offset, value: this.#string() }
    if (byte === MINUS || (byte >= 0x30 && byte <= 0x39)) return this.#number(offset)
    return this.#literal(offset)
  }

  /** Nothing but spaces may follow. */
  end(): void {
    while (this.#bytes[this.#at] === 0x20) this.#at++
    if (this.#at < this.#bytes.length) {
      this.#fail('json-trailing', 'expected nothing but spaces after the JSON')
    }
  }

  #object(depth: number): JsonValue {
    const offset = this.#base + this.#at++
    const members = new Map<string, JsonValue>()
    if (this.#skip(0x7d)) return { kind: 'object', offset, members }
    for (;;) {
      this.#space()
      const keyAt = this.#at
      if (this.#bytes[keyAt] !== QUOTE) this.#fail('json-syntax', 'expected a key in quotes')
      const key = this.#string()
      if (members.has(key)) {
        const shown = JSON.stringify(key.slice(0, 80))
        this.#fail('duplicate-key', `the key ${shown} stands twice in one object`, keyAt)
      }
      if (!this.#skip(COLON)) this.#fail('json-syntax', 'expected a colon after a key')
      members.set(key, this.value(depth + 1))
      if (this.#skip(0x7d)) return { kind: 'object', offset, members }
      if (!this.#skip(COMMA)) this.#fail('json-syntax', 'expected a comma or the end of an object')
    }
  }

  #array(depth: number): JsonValue {
    const offset = this.#base + this.#at++
    const items: JsonValue[] = []
    if (this.#skip(0x5d)) return { kind: 'array', offset, items }
    for (;;) {
      if (items.length === LIMITS.jsonItems) {
        this.#fail('json-items', `expected at most ${LIMITS.jsonItems} items in a list`)
      }
      items.push(this.value(depth + 1))
      if (this.#skip(0x5d)) return { kind: 'array', offset, items }
      if (!this.#skip(COMMA)) this.#fail('json-syntax', 'expected a comma or the end of a list')
    }
  }

  /** The string whose opening quote is next. */
  #string(): string {
    const start = ++this.#at
    let escaped = false
    for (;;) {
      const byte = this.#bytes[this.#at]
      if (byte === undefined) this.#fail('json-string', 'a string without an end', start - 1)
      if (byte! < 0x20) this.#fail('json-string', 'a raw control character in a string')
      if (byte === QUOTE) break
      if (byte === BACKSLASH) {
        escaped = true
        this.#at++
      }
      this.#at++
    }
    const raw = this.#decode(start, this.#at)
    this.#at++
    const text = escaped ? this.#unescape(raw, start) : raw
    if (escaped && !text.isWellFormed()) {
      this.#fail('json-string', 'half of a surrogate pair', start)
    }
    return text
  }

  #unescape(raw: string, start: number): string {
    return raw.replace(/\\(u[0-9a-fA-F]{4}|[\s\S])/g, (_, code: string) => {
      if (code.length === 5) return String.fromCharCode(Number.parseInt(code.slice(1), 16))
      const plain = ESCAPES[code]
      if (plain !== undefined) return plain
      return this.#fail('json-string', `an escape \\${code} that JSON does not have`, start)
    })
  }

  #number(offset: number): JsonValue {
    const start = this.#at
    while (isNumberByte(this.#bytes[this.#at])) this.#at++
    const text = this.#decode(start, this.#at)
    const value = Number(text)
    if (!NUMBER.test(text) || !Number.isFinite(value)) {
      this.#fail('json-number', `${JSON.stringify(text.slice(0, 40))} is not a JSON number`, start)
    }
    return { kind: 'number', offset, value, text }
  }

  #literal(offset: number): JsonValue {
    if (this.#word('true')) return { kind: 'boolean', offset, value: true }
    if (this.#word('false')) return { kind: 'boolean', offset, value: false }
    if (this.#word('null')) return { kind: 'null', offset }
    return this.#fail('json-syntax', 'expected a JSON value')
  }

  #word(word: string): boolean {
    for (let i = 0; i < word.length; i++) {
      if (this.#bytes[this.#at + i] !== word.charCodeAt(i)) return false
    }
    this.#at += word.length
    return true
  }

  /** Skips white space and then `byte`, if it is next. */
  #skip(byte: number): boolean {
    this.#space()
    if (this.#bytes[this.#at] !== byte) return false
    this.#at++
    return true
  }

  #space(): void {
    for (;;) {
      const byte = this.#bytes[this.#at]
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return
      this.#at++
    }
  }

  #decode(start: number, end: number): string {
    try {
      return decoder.decode(this.#bytes.subarray(start, end))
    } catch {
      return this.#fail('json-utf8', 'bytes that are not valid UTF-8', start)
    }
  }

  #fail(rule: string, message: string, at = this.#at): never {
    throw new CodecError(this.#kind, rule, message, this.#base + at)
  }
}

function isNumberByte(byte: number | undefined): boolean {
  if (byte === undefined) return false
  const digit = byte >= 0x30 && byte <= 0x39
  return digit || byte === MINUS || byte === 0x2b || byte === 0x2e || byte === 0x65 || byte === 0x45
}
