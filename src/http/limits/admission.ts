import type { Socket } from 'node:net'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { RegistryError } from '../../errors.ts'
import type { Limits } from './limits.ts'
import { SlotQueue } from './slots.ts'

/** How long places are waited for, and kept. Milliseconds. */
export interface SlotTimes {
  /** For a client that does nothing with its place to keep it, where another one waits. */
  readonly stalledMs: number
  /** For an upload to wait for a place: longer than it takes to see which of the others are slow. */
  readonly uploadWaitMs: number
  /** For a download to wait for a place. Who stands still has mostly done so before. */
  readonly downloadWaitMs: number
}

interface AdmissionDeps {
  readonly limits: Limits
  readonly times: SlotTimes
  /** Who sent a request: the id of a token, or an address. */
  readonly ownerOf: (request: FastifyRequest) => string
}

/** Slower than this, a client gives its place up to one that waits. Four times the default of the least rate, half of a link of 1 Mbit/s. */
const SLOW_BYTES_PER_SECOND = 64 * 1024
/** Slower than this, a download stands still. */
const STALLED_BYTES_PER_SECOND = 4 * 1024
/** For a download that is slow, and does not stand still, to keep its place: it reads all the time. Milliseconds. */
const SLOW_DOWNLOAD_MS = 60_000
/** Largest download that counts as short: no more than one chunk of a stream. */
const SHORT_BYTES = 2 * 1024 * 1024

/** The uploads that are under way. One whose client is slow ends when another needs its place, unless the registry has all of it. */
export class Uploads {
  readonly #slots: SlotQueue
  readonly #ownerOf: AdmissionDeps['ownerOf']
  readonly #signals = new WeakMap<FastifyRequest, AbortSignal>()

  constructor({ limits, times: { stalledMs, uploadWaitMs: waitMs }, ownerOf }: AdmissionDeps) {
    const slow = [{ bytesPerSecond: SLOW_BYTES_PER_SECOND, windowMs: stalledMs }]
    this.#slots = new SlotQueue({ what: 'uploads', most: limits.uploads, slow, waitMs })
    this.#ownerOf = ownerOf
  }

  /** An `onRequest` hook that lets in so many requests at once. Rejects `overloaded`, `client-closed`. */
  get hook() {
    return async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
      const { raw } = request
      const { socket } = raw
      const end = new AbortController()
      this.#signals.set(request, end.signal)
      await this.#slots.enter(reply.raw, {
        owner: this.#ownerOf(request),
        moved: () => socket.bytesRead,
        isAwaited: () => !raw.complete && !raw.isPaused(),
        end: why => end.abort(gaveWay(why)),
      })
    }
  }

  /** Aborts (reason: RegistryError `upload-too-slow` or `overloaded`) when the request that {@link hook} let in has lost its place. */
  signalOf(request: FastifyRequest): AbortSignal {
    return this.#signals.get(request)!
  }
}

function gaveWay(why: 'slow' | 'share'): RegistryError {
  return why === 'slow'
    ? new RegistryError(
        'upload-too-slow',
        `all places are held and others wait: expected at least ${SLOW_BYTES_PER_SECOND} bytes per second`,
      )
    : new RegistryError('overloaded', 'all places are held, and others that have fewer wait')
}

/**
 * The downloads that are under way. Each holds memory for what its client has not taken yet; one whose client takes nothing, or for long very
 * little, ends when another needs its place: a client that is still there goes on with a range. Short ones have as many places of their
 * own, so that clients who hold large ones keep nobody from a header.
 */
export class Downloads {
  readonly #short: SlotQueue
  readonly #long: SlotQueue
  readonly #ownerOf: AdmissionDeps['ownerOf']

  constructor({ limits, times: { stalledMs, downloadWaitMs: waitMs }, ownerOf }: AdmissionDeps) {
    const slow = [
      { bytesPerSecond: STALLED_BYTES_PER_SECOND, windowMs: stalledMs },
      { bytesPerSecond: SLOW_BYTES_PER_SECOND, windowMs: SLOW_DOWNLOAD_MS },
    ]
    const rules = { what: 'downloads', most: limits.downloads, slow, waitMs }
    this.#short = new SlotQueue(rules)
    this.#long = new SlotQueue(rules)
    this.#ownerOf = ownerOf
  }

  /** Lets a download of `size` bytes in, until its answer closes. Rejects `overloaded`, `client-closed`. */
  enter(request: FastifyRequest, { raw }: FastifyReply, size: number): Promise<void> {
    const { socket } = request.raw
    const slots = size <= SHORT_BYTES ? this.#short : this.#long
    return slots.enter(raw, {
      owner: this.#ownerOf(request),
      moved: () => takenBytes(socket),
      isAwaited: () => socket.writableLength > 0,
      end: () => raw.destroy(),
    })
  }
}

/** What Node knows of a socket and tells by no public name. It looks at the same to tell a slow reader from one that is idle. */
interface Handle {
  readonly bytesWritten: number
  /** Bytes that were handed to libuv and that the system has not taken. */
  readonly writeQueueSize: number
}

/** Bytes that the system took for the client. A write of a whole chunk says nothing before the last byte of it is taken. */
function takenBytes(socket: Socket): number {
  const { _handle: handle } = socket as Socket & { readonly _handle: Handle | null }
  return handle ? handle.bytesWritten - handle.writeQueueSize : socket.bytesWritten
}
