// For `node --import`: gives the WebSocket of browsers to a Node that has none (before version 22).

import WebSocket from 'ws';

globalThis.WebSocket ??= WebSocket;
