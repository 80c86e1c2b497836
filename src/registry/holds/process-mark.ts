import { readFile, readlink } from 'node:fs/promises'

/** Identifies a process among all that its machine has run since it was started. */
export interface ProcessMark {
  /** Random, one for each start of the machine. */
  readonly boot: string
  /** The namespace of `pid`: that of a container, or of the machine. */
  readonly namespace: string
  readonly pid: number
  /** When the process began, in ticks of the clock since the machine was started: a pid is used again. */
  readonly began: string
}

/** The number of `starttime` among the fields after the name of the program. Source: proc_pid_stat(5). */
const BEGAN_FIELD = 19

/** The mark of this process; null on all systems but Linux. */
export async function ownProcessMark(): Promise<ProcessMark | null> {
  const { pid } = process
  try {
    const [boot, namespace, began] = await Promise.all([bootId(), pidNamespace(), beganAt(pid)])
    return { boot, namespace, pid, began }
  } catch {
    return null
  }
}

/**
 * False if the process with this mark has ended. True if it runs, or if nothing is known of it: it may be on another machine or in another
 * container.
 */
export async function mayRun(mark: ProcessMark, own: ProcessMark): Promise<boolean> {
  if (mark.boot !== own.boot || mark.namespace !== own.namespace) return true
  try {
    process.kill(mark.pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
  }
  const began = await beganAt(mark.pid).catch(() => null)
  return began === null || began === mark.began
}

async function bootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
}

function pidNamespace(): Promise<string> {
  return readlink('/proc/self/ns/pid')
}

async function beganAt(pid: number): Promise<string> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  // The name of the program may hold anything, a bracket too.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return fields[BEGAN_FIELD]!
}
