// Runs commands in sandbox-runtime used as a library, prepared once: one JSON line in with the command, one out with how it ended.
// Written for the benchmarks; started with the package's folder and the folder commands may write to.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const [library, folder] = process.argv.slice(2)
const { SandboxManager } = await import(pathToFileURL(`${library}/dist/index.js`).href)
await SandboxManager.initialize({
  network: { allowedDomains: [], deniedDomains: [] },
  filesystem: { denyRead: [], allowWrite: [folder], denyWrite: [] },
})
console.log(JSON.stringify({ ready: true }))

for await (const line of createInterface({ input: process.stdin })) {
  const wrapped = await SandboxManager.wrapWithSandbox(JSON.parse(line).command)
  const child = spawn(wrapped, { shell: true, cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] })
  let printed = 0
  child.stdout.on('data', (chunk) => { printed += chunk.length })
  const code = await new Promise((resolve) => child.on('close', resolve))
  console.log(JSON.stringify({ code, printed }))
}
await SandboxManager.reset()
process.exit(0)
