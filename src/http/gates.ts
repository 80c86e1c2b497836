import type { FastifyReply, FastifyRequest } from 'fastify'
import { RegistryError } from '../errors.ts'

/** How much may be under way at once. */
export interface Limits {
  readonly uploads: number
  readonly downloads: number
  /** Requests that one token, or without tokens one address, may make in a minute; 0 for any number. */
  readonly requestsPerMinute: number
  /** Resident memory beyond which nothing new is taken on; 0 for any. */
  readonly rssBytes: number
}

/** An `onRequest` hook that lets in so many requests at once. Throws RegistryError `overloaded`. */
export function uploadGate({ uploads }: Limits) {
  let under = 0
  return async (_request: FastifyRequest, { raw }: FastifyReply): Promise<void> => {
    if (under >= uploads) {
      throw new RegistryError('overloaded', `${uploads} uploads are under way, which is the most`)
    }
    under++
    raw.once('close', () => under--)
  }
}

interface Download {
  movedAt: number
  readonly end: () => void
}

/** Largest download that counts as short: no more than one chunk of a stream. */
const SHORT_BYTES = 2 * 1024 * 1024

/**
 * The downloads that are under way. Each holds memory for what its client has not taken yet; one whose client takes nothing ends when
 * another needs its place: a client that is still there goes on with a range. Short ones have as many places of their own, so that clients
 * who hold large ones keep nobody from a header.
 */
export class Downloads {
  readonly #most: number
  readonly #stalledMs: number
  readonly #short = new Set<Download>()
  readonly #long = new Set<Download>()

  /** A download that has not moved for `stalledMs` gives its place up to one that needs it. */
  constructor({ downloads }: Limits, stalledMs: number) {
    this.#most = downloads
    this.#stalledMs = stalledMs
  }

  /**
   * Lets a download of `size` bytes in, until its answer closes. `moved` is to be called whenever its client has taken something.
   * @throws RegistryError `overloaded`
   */
  enter({ raw }: FastifyReply, size: number): { moved(): void } {
    const under = size <= SHORT_BYTES ? this.#short : this.#long
    if (under.size >= this.#most && !this.#endStalled(under)) {
      const message = `${this.#most} downloads are under way, which is the most`
      throw new RegistryError('overloaded', message)
    }
    const download: Download = { movedAt: performance.now(), end: () => raw.destroy() }
    under.add(download)
    raw.once('close', () => under.delete(download))
    return {
      moved: () => {
        download.movedAt = performance.now()
      },
    }
  }

  /** Ends the download that has stood still for longest. False if none has for long enough. */
  #endStalled(under: Set<Download>): boolean {
    let oldest: Download | null = null
    for (const download of under) {
      if (!oldest || download.movedAt < oldest.movedAt) oldest = download
    }
    if (!oldest || performance.now() - oldest.movedAt < this.#stalledMs) return false
    under.delete(oldest)
    oldest.end()
    return true
  }
}
