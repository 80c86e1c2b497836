/**
 * A long computation that can be left off at each `yield` and gone on with later, so that whoever runs it decides how much of it is done at
 * once. It yields nothing and returns its result.
 */
export type Steps<T> = Generator<undefined, T, undefined>

/** Takes the first step: null if that was all, else the steps that are left. @throws what the step throws */
export function begin(steps: Steps<void>): Steps<void> | null {
  return steps.next().done ? null : steps
}

/** Runs all steps at once, and returns the result. @throws what the steps throw */
export function complete<T>(steps: Steps<T>): T {
  for (;;) {
    const { done, value } = steps.next()
    if (done) return value
  }
}

/** Items of a long list that are handled in one step, where each costs about a microsecond. */
export const STEP_ITEMS = 1024
