import t from 'tap'
import { Patience } from '../../../src/http/limits/least-rate.ts'

const RATE = { bytesPerSecond: 100, windowMs: 1000 }
/** Milliseconds between two samples. */
const STEP = 10

/** A client, and the registry that waits for it. */
class Wait {
  readonly patience = new Patience(RATE, 0, 0)
  now = 0
  received = 0

  /** Takes samples for `ms`, while the client sends so many bytes in each; the time at which it is cut off, null if it is not. */
  sample(ms: number, bytesPerStep: number): number | null {
    for (const until = this.now + ms; this.now < until; ) {
      this.now += STEP
      this.received += bytesPerStep
      if (this.patience.isOver(this.now, this.received)) return this.now
    }
    return null
  }

  /** The event loop stands still: no sample is taken, nothing is read. */
  stand(ms: number): void {
    this.now += ms
  }

  hold(ms: number): void {
    this.patience.pause(this.now)
    this.now += ms
    this.patience.resume(this.now)
  }
}

t.test(
  'a client that sends the least is never cut off, one that sends less after a window',
  async t => {
    t.equal(new Wait().sample(20_000, 1), null)
    t.equal(new Wait().sample(20_000, 0), 1010)
    const slow = new Wait().sample(20_000, 0.9)
    t.ok(slow !== null && slow <= 2000, String(slow))
    const later = new Wait()
    t.equal(later.sample(5000, 2), null)
    t.equal(later.sample(5000, 0), 6010, 'once it stops')
  },
)

t.test('what the event loop stands still for is not the client’s', async t => {
  const one = new Wait()
  t.equal(one.sample(900, 0), null)
  one.stand(60_000)
  t.equal(one.patience.isOver(one.now, one.received), false, 'nothing was read yet')
  t.equal(one.sample(50, 0), null)
  t.equal(one.sample(5000, 0), 61_000, 'what is left of the window')

  const many = new Wait()
  for (let i = 0; i < 90; i++) {
    many.stand(990)
    t.equal(many.sample(STEP, 0), null, `after ${many.now} ms`)
  }
})

t.test('what the registry holds the body back for is not the client’s', async t => {
  const long = new Wait()
  t.equal(long.sample(900, 0), null)
  long.hold(60_000)
  t.equal(long.sample(50, 0), null)

  // Pauses that no sample sees.
  const short = new Wait()
  for (let i = 0; i < 200; i++) {
    short.hold(9)
    short.stand(1)
    t.equal(short.patience.isOver(short.now, 0), false, `after ${short.now} ms`)
  }

  const paused = new Wait()
  paused.patience.pause(0)
  t.equal(paused.sample(60_000, 0), null, 'while it is paused')
})

t.test('an idle client is cut off, however often the registry pauses for a moment', async t => {
  const wait = new Wait()
  let cut: number | null = null
  while (cut === null && wait.now < 10_000) {
    wait.hold(1)
    cut = wait.sample(100, 0)
  }
  t.ok(cut !== null && cut < 1100, String(cut))
})
