/** Runs all suites, each in full where it knows that; ends with the first that fails. What they need: `docs/suites.md`. */
import { run } from './run.ts'

const FULL = { FULL: '1' }

run('npm', ['test'])
run('npm', ['run', 'test:interop'], FULL)
run('npm', ['run', 'test:acceptance'], FULL)
// In full, its files take longer than tap lets them by `package.json`.
run('npm', ['run', 'test:crash', '--', '--timeout=3600'], FULL)
run('npm', ['run', 'test:s3'], FULL)
run('npm', ['run', 'test:docker'])
