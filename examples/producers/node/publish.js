// A JSON message from Node.js, on RabbitMQ.
//   npm install && BROKER_URL=amqp://guest:guest@127.0.0.1// node publish.js abc123 billing
import { randomUUID } from "node:crypto";
import amqp from "amqplib";

const [conversationId, destination] = process.argv.slice(2);
const event = {
  event_id: randomUUID(),
  conversation_id: conversationId,
  destination,
  occurred_at: new Date().toISOString(),
  source: "examples/node",
};

// amqplib reads "amqp://host//" as the virtual host "/" only when it is written %2F.
const url = process.env.BROKER_URL.replace(/\/\/$/, "/%2F");
const connection = await amqp.connect(url, { timeout: 5000 });
const channel = await connection.createConfirmChannel();

// Confirmed, and by no queue: then a message comes back. `redirect-worker migrate` has declared the queue.
let returned = false;
channel.on("return", () => (returned = true));
channel.publish("workflow", "workflow.redirect", Buffer.from(JSON.stringify(event)), {
  contentType: "application/json",
  persistent: true,
  mandatory: true,
  messageId: event.event_id,
});
await channel.waitForConfirms();
await connection.close();
if (returned) throw new Error("no queue is bound to workflow.redirect");
