import type { IncomingHttpHeaders } from 'node:http'
import { RegistryError } from '../errors.ts'

/** The answer to a request for content: all of it, bytes `[start, end)`, or that the client's copy is current. */
type Selection =
  | { readonly kind: 'whole' }
  | { readonly kind: 'part'; readonly start: number; readonly end: number }
  | { readonly kind: 'not-modified' }

const WHOLE: Selection = { kind: 'whole' }

/**
 * Evaluates the preconditions of a GET or HEAD and, for a GET, its range, in the order of RFC 9110, 13.2.2. Several ranges in
 * one request are answered with the whole, as the RFC allows. `etag` is without its quotes.
 * @throws RegistryError `precondition-failed`, `range-not-satisfiable`
 */
export function selectRange(
  method: string,
  headers: IncomingHttpHeaders,
  { size, etag }: { size: number; etag: string },
): Selection {
  const { range, 'if-match': ifMatch, 'if-none-match': ifNoneMatch, 'if-range': ifRange } = headers
  if (ifMatch !== undefined && !lists(ifMatch, tag => tag === `"${etag}"`)) {
    throw new RegistryError('precondition-failed', `the ETag is "${etag}"`)
  }
  if (
    ifNoneMatch !== undefined &&
    lists(ifNoneMatch, tag => tag.replace(/^W\//, '') === `"${etag}"`)
  ) {
    return { kind: 'not-modified' }
  }
  if (method !== 'GET' || range === undefined) return WHOLE
  // A date never matches: there is no Last-Modified to compare it with.
  if (ifRange !== undefined && ifRange !== `"${etag}"`) return WHOLE
  return parseRange(range, size)
}

/** Ignores a range that is malformed or not in bytes (RFC 9110, 14.2), and any range of empty content. */
function parseRange(range: string, size: number): Selection {
  const [, first = '', last = ''] = /^bytes=\s*(\d*)-(\d*)\s*$/i.exec(range) ?? []
  if ((first === '' && last === '') || size === 0) return WHOLE
  if (first === '') {
    const length = Number(last)
    if (length === 0) throw unsatisfiable(range, size)
    return { kind: 'part', start: Math.max(0, size - length), end: size }
  }
  const start = Number(first)
  const end = last === '' ? size : Math.min(size, Number(last) + 1)
  if (last !== '' && Number(last) < start) return WHOLE
  if (start >= size) throw unsatisfiable(range, size)
  return { kind: 'part', start, end }
}

function unsatisfiable(range: string, size: number): RegistryError {
  const message = `expected a range within ${size} bytes, got ${range}`
  return new RegistryError('range-not-satisfiable', message, { details: { size } })
}

/** True for `*`, or if one of the listed entity tags `matches`. Our tags have no commas, so a comma always ends one. */
function lists(header: string, matches: (tag: string) => boolean): boolean {
  return header.trim() === '*' || header.split(',').some(tag => matches(tag.trim()))
}
