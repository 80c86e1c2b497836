/** How messages quote text that a file holds: as JSON, of at most 80 characters. */
export function quoted(text: string): string {
  return JSON.stringify(text.slice(0, 80))
}

/** How messages name a tensor. */
export function namedTensor(name: string): string {
  return `tensor ${JSON.stringify(name)}`
}

/** The family of bytes that a codec error speaks of; the registry maps it to a problem code. */
export type CodecErrorKind = 'safetensors' | 'delta' | 'model' | 'encode' | 'range'

/**
 * Every refusal of the codec. `rule` is stable and names one class of fault (`duplicate-key`,
 * `array-missing`, …); `message` says what was expected, what came and where; `offset` is the byte in
 * the file at which the fault was seen, where there is one.
 */
export class CodecError extends Error {
  override readonly name = 'CodecError'
  readonly kind: CodecErrorKind
  readonly rule: string
  readonly offset: number | null

  constructor(
    kind: CodecErrorKind,
    rule: string,
    message: string,
    offset: number | null = null,
    options?: ErrorOptions,
  ) {
    super(offset === null ? message : `${message} (at byte ${offset})`, options)
    this.kind = kind
    this.rule = rule
    this.offset = offset
  }
}
