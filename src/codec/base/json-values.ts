'./json-values.ts'

/** Members in file order; keys are distinct. A Map, so that no key is special (`__proto__`) and none is moved (`"1"`). */
export type JsonMembers = ReadonlyMap<string, JsonValue>

/** `count` is true for a number written as a non-negative integer that a double holds exactly: `2`, not `2.0`, `2e0`, `-0` or 2^53. */
export interface JsonNumber {
  readonly kind: 'number'
  readonly offset: number
  readonly value: number
  readonly count: boolean
  /** The number as written. */
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

/** A member of an object: `[keyOffset, end)` are the bytes of the file that hold its key and its value. */
export interface JsonMember {
  readonly key: string
  readonly value: JsonValue
  readonly keyOffset: number
  readonly end: number
}

/** True for a number that is a {@link JsonNumber.count}. */
export function isCount(value: JsonValue | undefined): value is JsonNumber {
  return value?.kind === 'number' && value.count
}
