/** A long computation that stops at each `yield`, so that its caller decides how much of it is done at once. It returns its result. */
export type Steps<T> = Generator<undefined, T, undefined>

/** Takes the first step. Null if that was the last, else the steps that are left. @throws what the step throws */
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

/** Items of a long list that one step handles, at about a microsecond each. */
export const STEP_ITEMS = 1024
