import { CodecError } from '../base/errors.ts'

/** Throws the refusal of a malformed `.wdelta`: see {@link CodecError}. */
export function refuse(rule: string, message: string, offset: number | null = null): never {
  throw new CodecError('delta', rule, message, offset)
}
