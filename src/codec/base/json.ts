import { CodecError, type CodecErrorKind } from './errors.ts'
import type { JsonMember, JsonNumber, JsonValue } from './json-values.ts'
import { LIMITS } from './limits.ts'
import { SEEN_BYTES, SeenStrings } from './seen-strings.ts'
import { complete, type Steps } from './steps.ts'

const QUOTE = 0x22
const BACKSLASH = 0x5c
const COMMA = 0x2c
const COLON = 0x3a
const MINUS = 0x2d
const ESCAPE = /^\\(u[0-9a-fA-F]{4}|["\\/bfnrt])/
/** Least bytes that one step reads: it ends with the member that is under way then. */
const STEP_BYTES = 16_384
const NUMBER = /^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$/
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/**
 * Parses JSON by RFC 8259 and stricter: UTF-8 without BOM, no key twice in one object, no half surrogate pair, at most
 * LIMITS.jsonDepth levels, LIMITS.jsonItems items in a list, LIMITS.jsonValues values, nothing but spaces after the value.
 * `bytes` begins `offset` bytes into its file.
 *
 * The members of the object at `path` (keys from the outermost object down; no key means the outermost object) are given to `take` one by
 * one, as soon as each is read, and are missing in the result. So the tree of a long header is never held, and LIMITS.jsonValues bounds each
 * member by itself.
 * @throws CodecError of kind `kind`: `json-utf8`, `json-depth`, `json-items`, `json-values`, `json-syntax`, `json-string`,
 * `json-number`, `duplicate-key`, `json-trailing`; what `take` throws
 */
export function parseJson(
  bytes: Uint8Array,
  offset: number,
  kind: CodecErrorKind,
  path: readonly string[],
  take: (member: JsonMember) => void,
): JsonValue {
  return complete(parseJsonSteps(bytes, offset, kind, path, take))
}

/** {@link parseJson} in steps, each of a few members that `take` is given. */
export function parseJsonSteps(
  bytes: Uint8Array,
  offset: number,
  kind: CodecErrorKind,
  path: readonly string[],
  take: (member: JsonMember) => void,
): Steps<JsonValue> {
  return new Parser(bytes, offset, kind, path, take).root()
}

/** A number of plain digits: its text follows from its value. */
class Count implements JsonNumber {
  readonly kind = 'number'
  readonly count = true
  readonly offset: number
  readonly value: number

  constructor(offset: number, value: number) {
    this.offset = offset
    this.value = value
  }

  get text(): string {
    return String(this.value)
  }
}

/** One cursor over the bytes. Reading past the end gives undefined, which no rule accepts: that checks every bound. */
class Parser {
  readonly #bytes: Uint8Array
  readonly #base: number
  readonly #kind: CodecErrorKind
  readonly #path: readonly string[]
  readonly #take: (member: JsonMember) => void
  readonly #seen: SeenStrings
  #at = 0
  /** Values that are held in the tree. */
  #held = 0

  constructor(
    bytes: Uint8Array,
    base: number,
    kind: CodecErrorKind,
    path: readonly string[],
    take: (member: JsonMember) => void,
  ) {
    this.#bytes = bytes
    this.#base = base
    this.#kind = kind
    this.#path = path
    this.#take = take
    this.#seen = new SeenStrings(bytes)
  }

  /** The one value that the bytes hold, with nothing but spaces after it. */
  *root(): Steps<JsonValue> {
    const value = yield* this.#valueOnPath(0)
    while (this.#bytes[this.#at] === 0x20) this.#at++
    if (this.#at < this.#bytes.length) {
      this.#fail('json-trailing', 'expected nothing but spaces after the JSON')
    }
    return value
  }

  /** The next value, `depth` levels down; the keys that lead to it are those of the path. */
  *#valueOnPath(depth: number): Steps<JsonValue> {
    const byte = this.#first(depth)
    return byte === 0x7b ? yield* this.#objectOnPath(depth) : this.#rest(byte, depth)
  }

  *#objectOnPath(depth: number): Steps<JsonValue> {
    const offset = this.#base + this.#at++
    const members = new Map<string, JsonValue>()
    if (this.#skip(0x7d)) return { kind: 'object', offset, members }
    const next = this.#path[depth]
    const keys = next === undefined ? new Set<string>() : members
    let stepEnd = this.#at + STEP_BYTES
    for (;;) {
      if (this.#at >= stepEnd) {
        yield
        stepEnd = this.#at + STEP_BYTES
      }
      this.#space()
      const keyAt = this.#at
      const key = this.#key(keys)
      const value = key === next ? yield* this.#valueOnPath(depth + 1) : this.#value(depth + 1)
      if (keys instanceof Set) this.#give(keys, key, value, keyAt)
      else members.set(key, value)
      if (this.#objectEnds()) return { kind: 'object', offset, members }
    }
  }

  /** The next value, `depth` levels down. */
  #value(depth: number): JsonValue {
    return this.#rest(this.#first(depth), depth)
  }

  /** Skips spaces, and gives the first byte of the next value. */
  #first(depth: number): number {
    if (++this.#held > LIMITS.jsonValues) {
      this.#fail('json-values', `expected at most ${LIMITS.jsonValues} values`)
    }
    this.#space()
    const byte = this.#bytes[this.#at]
    if (byte === undefined) return this.#fail('json-syntax', 'the JSON ends where a value is due')
    if (depth > LIMITS.jsonDepth) {
      this.#fail('json-depth', `expected at most ${LIMITS.jsonDepth} levels of JSON`)
    }
    return byte
  }

  /** The next value, which begins with `byte`. */
  #rest(byte: number, depth: number): JsonValue {
    if (byte === 0x7b) return this.#object(depth)
    if (byte === 0x5b) return this.#array(depth)
    const offset = this.#base + this.#at
    if (byte === QUOTE) return { kind: 'string', offset, value: this.#string() }
    if (byte === MINUS || (byte >= 0x30 && byte <= 0x39)) return this.#number(offset)
    return this.#literal(offset)
  }

  #object(depth: number): JsonValue {
    const offset = this.#base + this.#at++
    const members = new Map<string, JsonValue>()
    if (this.#skip(0x7d)) return { kind: 'object', offset, members }
    for (;;) {
      this.#space()
      const key = this.#key(members)
      members.set(key, this.#value(depth + 1))
      if (this.#objectEnds()) return { kind: 'object', offset, members }
    }
  }

  /** Whether an object ends after a member; if not, skips the comma. */
  #objectEnds(): boolean {
    if (this.#skip(0x7d)) return true
    if (this.#skip(COMMA)) return false
    return this.#fail('json-syntax', 'expected a comma or the end of an object')
  }

  /** The next key and the colon after it. Refuses a key that is among `keys`. */
  #key(keys: { has(key: string): boolean }): string {
    const start = this.#at
    if (this.#bytes[start] !== QUOTE) this.#fail('json-syntax', 'expected a key in quotes')
    const key = this.#string()
    if (keys.has(key)) {
      const shown = JSON.stringify(key.slice(0, 80))
      this.#fail('duplicate-key', `the key ${shown} stands twice in one object`, start)
    }
    if (!this.#skip(COLON)) this.#fail('json-syntax', 'expected a colon after a key')
    return key
  }

  #array(depth: number): JsonValue {
    const offset = this.#base + this.#at++
    const items: JsonValue[] = []
    if (this.#skip(0x5d)) return { kind: 'array', offset, items }
    for (;;) {
      if (items.length === LIMITS.jsonItems) {
        this.#fail('json-items', `expected at most ${LIMITS.jsonItems} items in a list`)
      }
      items.push(this.#value(depth + 1))
      if (this.#skip(0x5d)) return { kind: 'array', offset, items }
      if (!this.#skip(COMMA)) this.#fail('json-syntax', 'expected a comma or the end of a list')
    }
  }

  #give(keys: Set<string>, key: string, value: JsonValue, keyAt: number): void {
    keys.add(key)
    this.#held = 0
    this.#take({ key, value, keyOffset: this.#base + keyAt, end: this.#base + this.#at })
  }

  /** The string whose opening quote is next. */
  #string(): string {
    const start = ++this.#at
    let escaped = false
    let hash = 0
    let or = 0
    for (;;) {
      const byte = this.#bytes[this.#at]
      if (byte === undefined) return this.#fail('json-string', 'a string without an end', start - 1)
      if (byte < 0x20) this.#fail('json-string', 'a raw control character in a string')
      if (byte === QUOTE) break
      hash = (hash * 31 + byte) | 0
      or |= byte
      if (byte === BACKSLASH) {
        escaped = true
        this.#at++
      }
      this.#at++
    }
    const end = this.#at++
    if (escaped) return this.#unescape(this.#decode(start, end), start)
    if (or >= 0x80 || end - start > SEEN_BYTES) return this.#decode(start, end)
    const seen = this.#seen.find(hash, start, end)
    if (seen !== undefined) return seen
    const text = this.#decode(start, end)
    this.#seen.add(hash, start, text)
    return text
  }

  #unescape(raw: string, start: number): string {
    const text = this.#unescaped(raw, start)
    if (!text.isWellFormed()) this.#fail('json-string', 'half of a surrogate pair', start)
    return text
  }

  /** The string with its escapes resolved, all at once: a call for each would take minutes where a string is nearly all escapes. */
  #unescaped(raw: string, start: number): string {
    try {
      return JSON.parse(`"${raw}"`)
    } catch {
      let at = raw.indexOf('\\')
      while (ESCAPE.test(raw.slice(at, at + 6))) at = raw.indexOf('\\', at + 2)
      const code = raw.charAt(at + 1)
      return this.#fail('json-string', `an escape \\${code} that JSON does not have`, start)
    }
  }

  #number(offset: number): JsonValue {
    const start = this.#at
    let value = 0
    let byte = this.#bytes[start]
    while (byte !== undefined && byte >= 0x30 && byte <= 0x39) {
      value = value * 10 + (byte - 0x30)
      byte = this.#bytes[++this.#at]
    }
    const plain = this.#at > start && !isNumberByte(byte) && value <= Number.MAX_SAFE_INTEGER
    if (plain && (this.#bytes[start] !== 0x30 || this.#at === start + 1)) {
      return new Count(offset, value)
    }
    while (isNumberByte(this.#bytes[this.#at])) this.#at++
    return this.#otherNumber(offset, start)
  }

  /** A number with a sign, a fraction or an exponent. Refuses what is not a number. */
  #otherNumber(offset: number, start: number): JsonValue {
    const text = this.#decode(start, this.#at)
    const value = Number(text)
    if (!NUMBER.test(text) || !Number.isFinite(value)) {
      this.#fail('json-number', `${JSON.stringify(text.slice(0, 40))} is not a JSON number`, start)
    }
    return { kind: 'number', offset, value, count: false, text }
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

  /** Skips white space, and `byte` if it comes next; says if it came. */
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
