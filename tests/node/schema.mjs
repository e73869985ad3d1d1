// Validates JSON documents, a line each on standard input, against a JSON Schema, and prints for each line what is
// wrong with it as a JSON list. `node schema.mjs SCHEMA [SCHEMA THAT IT REFERS TO]...`
import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { createInterface } from 'node:readline'
import addFormats from 'ajv-formats'

// An `id` that is a text is one of an older draft, and names nothing that is referred to.
const read = path => JSON.parse(readFileSync(path, 'utf8'), (key, value) => (key === 'id' && typeof value === 'string' ? undefined : value))
const [path, ...others] = process.argv.slice(2)
const schema = read(path)
const is2019 = schema.$schema?.includes('2019-09')
// Some write it as it never was.
if (is2019) {
  schema.$schema = 'https://json-schema.org/draft/2019-09/schema'
}
const { default: Ajv } = await import(is2019 ? 'ajv/dist/2019.js' : 'ajv')
// Our own schema is held to the strict mode; those of others are what they are.
const own = schema.title === 'A configuration of appsync-bridge'
const ajv = new Ajv({ allErrors: true, strict: own, allowUnionTypes: true, logger: false })
addFormats(ajv)
for (const name of ['idn-email', 'iri-reference', 'duration', 'subnet_ip_address', 'ports', 'expose']) ajv.addFormat(name, true)
for (const other of others) {
  const { $id: _, ...known } = read(other)
  ajv.addSchema(known, new URL(basename(other), schema.$id).href)
}
const validate = ajv.compile(schema)
for await (const line of createInterface({ input: process.stdin })) {
  const good = validate(JSON.parse(line))
  const wrong = good ? [] : validate.errors.map(e => `${e.instancePath} ${e.message} ${JSON.stringify(e.params)}`)
  console.log(JSON.stringify(wrong))
}
