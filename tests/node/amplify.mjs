// The real Amplify client against an Event API, one task a run:
//
//   node amplify.mjs subscribe ENDPOINT KEY CHANNEL COUNT   COUNT events, then the end
//   node amplify.mjs publish   ENDPOINT KEY CHANNEL EVENT…  over the WebSocket, one request
//   node amplify.mjs post      ENDPOINT KEY CHANNEL EVENT…  over HTTP, one request
//
// KEY is an API key, or `iam`: then AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and
// AWS_REGION are used. An EVENT is JSON. Every line of standard output is one JSON object:
// {"ready":true}, {"event":…}, {"done":…} or {"error":{…}}; an error makes the exit code 1.

import { Amplify } from 'aws-amplify';
import { events } from 'aws-amplify/data';
import WebSocket from 'ws';

// Node has no global WebSocket before version 22.
globalThis.WebSocket ??= WebSocket;

const [mode, endpoint, key, channelName, ...rest] = process.argv.slice(2);
const env = process.env;
const iam = key === 'iam';

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// Amplify throws errors, bare objects with `errors`, and errors with an HTTP response.
const describe = (error) => ({
  name: error?.name,
  message: error?.message,
  errors: error?.errors?.map(({ name, message, errorType }) => ({ name, message, errorType })),
  status: error?.response?.statusCode,
  body: error?.response?.body,
});

const finish = (line) => process.stdout.write(`${JSON.stringify(line)}\n`, () => process.exit('error' in line ? 1 : 0));

process.on('unhandledRejection', (error) => finish({ error: describe(error) }));

Amplify.configure(
  {
    API: {
      Events: {
        endpoint,
        region: env.AWS_REGION ?? 'eu-west-1',
        defaultAuthMode: iam ? 'iam' : 'apiKey',
        apiKey: iam ? undefined : key,
      },
    },
  },
  iam && {
    Auth: {
      credentialsProvider: {
        getCredentialsAndIdentityId: async () => ({
          credentials: {
            accessKeyId: env.AWS_ACCESS_KEY_ID,
            secretAccessKey: env.AWS_SECRET_ACCESS_KEY,
            sessionToken: env.AWS_SESSION_TOKEN,
          },
        }),
        clearCredentialsAndIdentityId: () => {},
      },
    },
  },
);

const subscribe = async (count) => {
  const channel = await events.connect(channelName);
  let left = count;
  const subscription = channel.subscribe({
    next: ({ event }) => {
      if (left <= 0) return;
      left -= 1;
      say({ event });
      if (left === 0) finish({ done: count });
    },
    error: (error) => finish({ error: describe(error) }),
  });
  await subscription.ready;
  say({ ready: true });
};

const publish = async (values) => {
  const channel = await events.connect(channelName);
  finish({ done: (await channel.publish(values)) ?? null });
};

const post = async (values) => finish({ done: (await events.post(channelName, values)) ?? null });

try {
  const values = () => rest.map((text) => JSON.parse(text));
  if (mode === 'subscribe') await subscribe(Number(rest[0]));
  else if (mode === 'publish') await publish(values());
  else if (mode === 'post') await post(values());
  else throw new Error(`unknown mode ${mode}`);
} catch (error) {
  finish({ error: describe(error) });
}
