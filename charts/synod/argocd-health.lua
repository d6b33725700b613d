-- Health of a ReplicatedService for Argo CD, from its conditions. How to install it is in
-- docs/kubernetes/install.md.
local health = {
  status = "Progressing",
  message = "no operator has looked at it yet",
}
local status = obj.status or {}
local found = {}
for _, condition in ipairs(status.conditions or {}) do
  found[condition.type] = condition
end
local function is_true(name)
  return found[name] ~= nil and found[name].status == "True"
end
local function told(name, result)
  health.status = result
  health.message = found[name].reason .. ": " .. (found[name].message or "")
  return health
end
if found.Ready == nil then
  return health
end
local generation = status.observedGeneration
if generation == nil or generation ~= obj.metadata.generation then
  health.message = "the newest manifest has not been looked at yet"
  return health
end
if is_true("Stalled") then
  return told("Stalled", "Degraded")
end
if obj.spec.paused then
  health.status = "Suspended"
  health.message = "spec.paused is set"
  return health
end
if is_true("Degraded") then
  return told("Degraded", "Degraded")
end
if is_true("Ready") then
  return told("Ready", "Healthy")
end
return told("Ready", "Progressing")
