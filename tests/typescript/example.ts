// A slate for ann, and a click on its first item. The types are those of service/client/client.d.ts, copied beside this file.
import type { components } from "./client";

type Schemas = components["schemas"];
const service = "http://127.0.0.1:8000";
const headers = { "content-type": "application/json", "x-api-key": "" }; // a key with the scopes serve and feedback

async function post(path: string, body: unknown): Promise<unknown> {
  const answer = await fetch(service + path, { method: "POST", headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(((await answer.json()) as Schemas["ProblemDocument"]).detail);
  return answer.json();
}

const asked: Schemas["RecommendRequest"] = { user_id: "ann", k: 5 };
const slate = (await post("/recommend", asked)) as Schemas["RecommendResponse"];
const event: Schemas["FeedbackEvent"] = {
  event_id: crypto.randomUUID(),
  recommendation_id: slate.recommendation_id,
  user_id: "ann",
  item_id: slate.items[0].item_id,
  type: "click",
};
const outcome = (await post("/feedback", event)) as Schemas["FeedbackResponse"];
console.log(slate.items.map((item) => item.item_id), outcome);

export {};
