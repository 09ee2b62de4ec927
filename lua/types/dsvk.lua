---@meta dsvk
-- What the module offers, for LuaLS ("Lua.workspace.library": ["lua/types"]). tests/lua/annotations_spec.lua compares it with the module.
-- Failures at run time: nil, a sentence, and a status's name. Wrong arguments and closed handles raise an error.

---@alias dsvk.Code "INVALID"|"STATE"|"BUSY"|"CANCELLED"|"FORMAT"|"UNSUPPORTED"|"LIMIT"|"IO"|"NOMEM"|"DEVMEM"|"DEVLOST"|"NODEVICE"|"NUMERIC"
---@alias dsvk.Tokens integer[]|string ids, or text that is encoded as ordinary text by the model's tokenizer
---@alias dsvk.Progress fun(stage: string, done: integer, total: integer) an error it raises stops the call and is raised there
---@alias dsvk.Mask fun(ids: integer[], i: integer): integer[]|string|nil before each token, with the ids that are new (i: the session of a batch): the ids that may come next, or a bit for each in 32-bit words, or nil for all; an error it raises is raised by the call
---@alias dsvk.Purpose "weights"|"cache"|"scratch"|"staging"|"readback"

---@class dsvk.DeviceOptions
---@field cache_dir? string folder for compiled pipelines, "" for none
---@field matmul? string how prefill multiplies, one of info().matmul_variants; nil: the fastest
---@field indexer? "floats"|"bytes" how index scores are multiplied, with the same bits; nil: bytes where the device has instructions for it
---@field validation? boolean turn on the Khronos validation layer
---@field max_allocation? integer bytes; pretend the driver allows no larger allocation
---@field budgets? table<dsvk.Purpose, integer> bytes
---@field log? fun(line: string) what is worth telling and no failure of a call; an error in it becomes a warning

---@class dsvk.PlanOptions
---@field cache? "native"|"f32"
---@field max_chunk? integer most rows of one forward pass
---@field page_tokens? integer tokens per cache page
---@field strict? boolean unknown tensors are an error
---@field verify? boolean NaN or infinity in a weight is an error
---@field threads? integer that read files

---@class dsvk.ModelOptions: dsvk.PlanOptions
---@field device? dsvk.Device|string|integer a Device, or what dsvk.device takes as its choice
---@field budgets? table<dsvk.Purpose, integer> of the device opened here
---@field progress? dsvk.Progress in bytes

---@class dsvk.SampleOptions
---@field temperature? number 0: the most likely token
---@field top_p? number
---@field min_p? number
---@field top_k? integer
---@field seed? integer|integer[] the same seed after the same prefix gives the same tokens; its 64 bits are taken as they are, so that -1 is the seed 2^64 - 1 of C and Python; a list, one per session, in Model:decode alone
---@field stop? integer[] ids that end decoding; the stop is the last id returned
---@field frequency_penalty? number taken off a token's logit as often as it was generated
---@field presence_penalty? number taken off once
---@field logit_bias? table<integer, number> added to the logits of these ids
---@field mask? dsvk.Mask
---@field mask_after? integer the mask is asked only behind the first generated token of this id

---@class dsvk
---@field version string
dsvk = {}

---@return table[]? devices, string? message, dsvk.Code? code every Vulkan device, the best first
function dsvk.devices() end
---@return table? survey, string? message, dsvk.Code? code loader (text) and devices
function dsvk.survey() end
---@param choice? integer|string an index, a UUID, or part of a name that fits one device; nil: the best
---@param options? dsvk.DeviceOptions
---@return dsvk.Device? device, string? message, dsvk.Code? code
function dsvk.device(choice, options) end
---@param path string a folder in the published safetensors layout, or "nano"
---@param options? dsvk.ModelOptions
---@return dsvk.Model? model, string? message, dsvk.Code? code
function dsvk.model(path, options) end
---@param path string a tokenizer.json or its folder
---@return dsvk.Tokenizer? tokenizer, string? message, dsvk.Code? code
function dsvk.tokenizer(path) end
---@param path string
---@param options? dsvk.PlanOptions|{context: integer?, device: dsvk.Device?}
---@return table? plan, string? message, dsvk.Code? code bytes by purpose, layer and context, from config.json alone
function dsvk.plan(path, options) end
---@param path string
---@param options? {strict: boolean?, threads: integer?, progress: dsvk.Progress?}
---@return table? report, string? message, dsvk.Code? code
function dsvk.verify(path, options) end
---@param path string
---@return string? folder where "nano" lies, or path itself
---@return string? message where it was looked for
---@return dsvk.Code? code
function dsvk.locate(path) end

---@class dsvk.Device
dsvk.Device = {}
---@return table? info, string? message, dsvk.Code? code as dsvk.devices says
function dsvk.Device:info() end
---@return table? memory, string? message, dsvk.Code? code bytes by purpose
function dsvk.Device:memory() end
---@param options? {progress: dsvk.Progress?} done: how many times one of the numbers was measured; total 0
---@return table? peaks, string? message, dsvk.Code? code what the device can do, in about two seconds
function dsvk.Device:measure(options) end
---@return true? ok, string? message, dsvk.Code? code from here every dispatch is timed
function dsvk.Device:profile_begin() end
---@return table? profile, string? message, dsvk.Code? code
function dsvk.Device:profile_end() end
---@return true? ok, string? message, dsvk.Code? code models keep the device alive until they are closed
function dsvk.Device:close() end
---@return boolean
function dsvk.Device:closed() end

---@class dsvk.Model
dsvk.Model = {}
---@return table? config, string? message, dsvk.Code? code
function dsvk.Model:config() end
---@return table? report, string? message, dsvk.Code? code what loading did
function dsvk.Model:report() end
---@return integer
function dsvk.Model:vocab_size() end
---@return boolean
function dsvk.Model:has_mtp() end
---@return dsvk.Device
function dsvk.Model:device() end
---@return dsvk.Tokenizer? tokenizer, string? message, dsvk.Code? code
function dsvk.Model:tokenizer() end
---@param options? {context: integer?, mtp: boolean?, progress: dsvk.Progress?} context: most tokens, 0 for the model's largest
---@return dsvk.Session? session, string? message, dsvk.Code? code
function dsvk.Model:session(options) end
---Session.decode for many different sessions at once; seed may be a list, one per session.
---@param sessions dsvk.Session[]
---@param n integer
---@param options? dsvk.SampleOptions
---@return integer[][]? ids, string? message, dsvk.Code? code
function dsvk.Model:decode(sessions, n, options) end
---Continues a text; with stream = true an iterator of pieces of it.
---@param prompt dsvk.Tokens
---@param options? {max_tokens: integer?, stream: boolean?, temperature: number?, top_p: number?, top_k: integer?, min_p: number?, seed: integer?, stop: string|integer|(string|integer)[]|nil, bos: boolean?, frequency_penalty: number?, presence_penalty: number?, logit_bias: table<integer, number>?, mask: dsvk.Mask?, mask_after: integer?}
---@return string|fun(): string?|nil text, string? message, dsvk.Code? code
function dsvk.Model:generate(prompt, options) end
---Runs a prompt from nothing and keeps what the forward pass goes through; text gets the begin token in front.
---@param tokens dsvk.Tokens
---@param options? {progress: dsvk.Progress?} in tokens
---@return dsvk.Trace? trace, string? message, dsvk.Code? code
function dsvk.Model:trace(tokens, options) end
---@return true
function dsvk.Model:close() end
---@return boolean
function dsvk.Model:closed() end

---Arrays of one forward pass over n tokens, by name. Layers are numbered from 0; D hidden size, A experts of a token of E, r the
---layer's compression ratio:
---    embedding, layers.L.streams                 [n, 4, D]  the streams that enter the first layer, that leave layer L
---    layers.L.attn.input, layers.L.ffn.input     [n, D]     a sublayer's normalised input
---    layers.L.attn.post, .attn.comb, .ffn. ...   [n, 4], [n, 4, 4]  hyper-connection coefficients that end the site
---    layers.L.router.logits                      [n, E]
---    layers.L.router.experts, .weights           [n, A]     integers; their weights
---    layers.L.compressed                         [n // r, head_dim]  cache rows, decoded
---    layers.L.indexer.keys                       [n // 4, index_dim]
---    layers.L.indexer.selected                   [n, min(k, n // 4)] integers, ascending, -1 for none
---    layers.L.indexer.scores                     [n, n // 4]  -inf where none was needed: all visible entries were taken
---    logits                                      [n, vocabulary]
---A name is missing where a text is too short for an entry.
---@class dsvk.Trace
dsvk.Trace = {}
---@return string[] names in the order of the pass
function dsvk.Trace:names() end
---@param name string
---@return {dtype: "F32"|"I32", shape: integer[]}? info, string? message, dsvk.Code? code
function dsvk.Trace:info(name) end
---@param name string
---@return number[]|integer[]|nil numbers, string? message, dsvk.Code? code row by row
function dsvk.Trace:read(name) end
---@return integer[] ids it is of
function dsvk.Trace:tokens() end
---@return integer[][] loads how many of the tokens chose each expert: a list for each layer, of expert i at i + 1
function dsvk.Trace:expert_load() end
---@return true
function dsvk.Trace:close() end
---@return boolean
function dsvk.Trace:closed() end

---@class dsvk.Session
dsvk.Session = {}
---Be at this prefix: keeps the common beginning, rolls back, extends or rebuilds as needed.
---@param tokens dsvk.Tokens
---@return true? ok, string? message, dsvk.Code? code
function dsvk.Session:sync(tokens) end
---@return number[]? logits, string? message, dsvk.Code? code after the last token; of id i at i + 1
function dsvk.Session:logits() end
---@return number[]? logits, string? message, dsvk.Code? code of the multi-token-prediction block, for the token after next
function dsvk.Session:mtp_logits() end
---Appends tokens and gives the logits of each of their positions.
---@param tokens dsvk.Tokens
---@param options? {chunk: integer?, mtp: boolean?}
---@return number[][]? rows, (number[][]|string)? mtp_rows_or_message, dsvk.Code? code
function dsvk.Session:evaluate(tokens, options) end
---@param n integer
---@param options? dsvk.SampleOptions
---@return integer[]? ids, string? message, dsvk.Code? code
function dsvk.Session:decode(n, options) end
---`for piece, ids in session:stream(n, options) do`; raises what fails.
---@param n integer
---@param options? dsvk.SampleOptions
---@return fun(): string?, integer[]?
function dsvk.Session:stream(n, options) end
---States what poll works towards: be at tokens (nil: as it stands), then decode n.
---@param tokens dsvk.Tokens?
---@param n integer
---@param options? dsvk.SampleOptions
---@return true? ok, string? message, dsvk.Code? code
function dsvk.Session:begin(tokens, n, options) end
---Works for about so long, at least one slice, and returns what is new.
---@param microseconds number
---@return string? piece, (boolean|string)? finished_or_message, (integer[]|dsvk.Code)? ids_or_code
function dsvk.Session:poll(microseconds) end
---A coroutine whose every resume polls for options.budget microseconds (4000) and yields piece, ids.
---@param tokens dsvk.Tokens?
---@param n integer
---@param options? dsvk.SampleOptions|{budget: number?}
---@return thread? coroutine, string? message, dsvk.Code? code
function dsvk.Session:coroutine(tokens, n, options) end
---Asks the running call to stop, from its progress function.
function dsvk.Session:cancel() end
---@return integer
function dsvk.Session:position() end
---@return integer
function dsvk.Session:context() end
---@return integer[]? ids, string? message, dsvk.Code? code
function dsvk.Session:tokens() end
---@return table? memory, string? message, dsvk.Code? code bytes
function dsvk.Session:memory() end
---@return dsvk.Model
function dsvk.Session:model() end
---@return true? ok, string? message, dsvk.Code? code
function dsvk.Session:close() end
---@return boolean
function dsvk.Session:closed() end

---@class dsvk.Tokenizer
dsvk.Tokenizer = {}
---@param text string any bytes
---@param options? {special: boolean?} special: text of added tokens becomes their ids
---@return integer[]? ids, string? message, dsvk.Code? code
function dsvk.Tokenizer:encode(text, options) end
---@param ids integer[]
---@return string? text, string? message, dsvk.Code? code
function dsvk.Tokenizer:decode(ids) end
---@param text string
---@return integer? id
function dsvk.Tokenizer:id(text) end
---@param id integer
---@return boolean
function dsvk.Tokenizer:is_special(id) end
---@param id integer
---@return boolean added markup that ordinary text never becomes
function dsvk.Tokenizer:is_added(id) end
---@return integer
function dsvk.Tokenizer:vocab_size() end
---@return dsvk.Decoder? decoder, string? message, dsvk.Code? code ids to text one by one, whole characters only
function dsvk.Tokenizer:decoder() end
---@return true
function dsvk.Tokenizer:close() end
---@return boolean closed, or the model that it is of
function dsvk.Tokenizer:closed() end

---@class dsvk.Decoder
dsvk.Decoder = {}
---@param id integer
---@return string? text, string? message, dsvk.Code? code what became complete, sometimes ""
function dsvk.Decoder:push(id) end
---@return string? text, string? message, dsvk.Code? code
function dsvk.Decoder:finish() end
---@return true
function dsvk.Decoder:close() end
---@return boolean closed, or its tokenizer is
function dsvk.Decoder:closed() end

---@class dsvk.Message
---@field role "system"|"developer"|"user"|"assistant"|"tool"|"latest_reminder"
---@field content? string|table[] or parts { type = "text", text = }
---@field reasoning_content? string an assistant's thoughts
---@field tool_calls? table[] an assistant's: { id =, type = "function", ["function"] = { name =, arguments = } }, arguments a table or JSON text
---@field tool_call_id? string whose result a tool's message is

---Wherever keys have an order of their own (in tools above all, which the prompt repeats), JSON text may stand for the table.
---@class dsvk.ChatOptions
---@field thinking_mode? "thinking"|"chat"
---@field drop_thinking? boolean true: thoughts before the last question are left out, unless there are tools
---@field reasoning_effort? "none"|"minimal"|"low"|"medium"|"high"|"xhigh"|"max"|"ultra"
---@field add_bos? boolean
---@field context? dsvk.Message[]|string messages encoded before: only what comes behind them is written
---@field tools? table[]|string { type = "function", ["function"] = { name =, description =, parameters = } }
---@field response_format? table|string
---@field revision? "preview"|"0731"
---@field replay? table<string, string|integer[]> what was sampled, by the id of a turn's first call: written exactly so; never a stranger's

---Conversations in the family's own format. An empty table inside a message is an object; what is nothing is left out.
dsvk.chat = {}
---@param messages dsvk.Message[]|string
---@param options? dsvk.ChatOptions
---@return string? text, string? message, dsvk.Code? code
function dsvk.chat.encode(messages, options) end
---Special strings in messages stay ordinary text. The answer begins inside thinking exactly when the last id is tokenizer:id("<think>").
---@param tokenizer dsvk.Tokenizer
---@param messages dsvk.Message[]|string
---@param options? dsvk.ChatOptions
---@return integer[]? ids, string? message, dsvk.Code? code
function dsvk.chat.encode_ids(tokenizer, messages, options) end
---A whole answer as an assistant's message; arguments of calls are JSON text, and a call that was cut has complete = false.
---@param text string
---@param thinking_mode? "thinking"|"chat" "thinking" (default): the text begins inside thinking
---@return dsvk.Message? answer, string? message, dsvk.Code? code
function dsvk.chat.parse(text, thinking_mode) end
---@param thinking_mode? "thinking"|"chat" "thinking" (default): the answer begins inside thinking
---@return dsvk.ChatParser? parser, string? message, dsvk.Code? code
function dsvk.chat.parser(thinking_mode) end

---@class dsvk.ChatEvent
---@field kind "reasoning"|"content"|"call"|"arguments"|"call_end"|"call_cut"|"end" more of that text; a call begins, its name; more of its JSON; the call is complete, or was cut and closed; the end token
---@field text string
---@field call? integer which call of this answer, from 1

---@class dsvk.ChatParser reads an answer as it comes, cut anywhere
dsvk.ChatParser = {}
---@param text string any bytes
---@return dsvk.ChatEvent[]? events, string? message, dsvk.Code? code
function dsvk.ChatParser:feed(text) end
---The same with the text of a token. Better than bytes: only added tokens are markup then.
---@param tokenizer dsvk.Tokenizer
---@param id integer
---@return dsvk.ChatEvent[]? events, string? message, dsvk.Code? code
function dsvk.ChatParser:push(tokenizer, id) end
---No more will come: what was held back comes out, an open call is cut.
---@return dsvk.ChatEvent[]? events, string? message, dsvk.Code? code
function dsvk.ChatParser:finish() end
---@return "reasoning"|"content"|"call"|"end" what the next byte would belong to
function dsvk.ChatParser:place() end
---@return true
function dsvk.ChatParser:close() end
---@return boolean
function dsvk.ChatParser:closed() end

---Numbers of F32 and I32 tensors are arrays of numbers, of other dtypes strings of bytes; both may be given as strings.
---@class dsvk.TensorOptions
---@field data? string|number[] row by row; nil: zeros (values only). experts: w1
---@field shape integer[] experts: {n, hidden, dim}, of w1
---@field dtype? string "F32" (default), "BF16", "F8_E4M3", "F4" (two to a byte, the first in the low half), "I32", ...
---@field form? "values"|"matrix"|"experts" what it is to the ops
---@field scales? string|number[] of F8_E4M3 one per 128x128 block, of F4 one per row and 32 columns
---@field scale_dtype? "F8_E8M0"|"F32"
---@field w3? string|number[]
---@field w3_scales? string|number[]
---@field w2? string|number[]
---@field w2_scales? string|number[]

---@class dsvk.Tensor immutable numbers on a device
dsvk.Tensor = {}
---@param options? {progress: dsvk.Progress?} in columns of a matrix
---@return number[]|integer[]|string|nil numbers, string? message, dsvk.Code? code row by row; small formats decoded
function dsvk.Tensor:read(options) end
---@return {form: string, dtype: string, shape: integer[], device_bytes: integer} info
function dsvk.Tensor:info() end
---@return dsvk.Device
function dsvk.Tensor:device() end
---@return true? ok, string? message, dsvk.Code? code
function dsvk.Tensor:close() end
---@return boolean
function dsvk.Tensor:closed() end

---@param device dsvk.Device
---@param options dsvk.TensorOptions
---@return dsvk.Tensor? tensor, string? message, dsvk.Code? code
function dsvk.tensor(device, options) end
---@param device dsvk.Device
---@param name string
---@param arguments table<string, dsvk.Tensor|number>
---@param options? {progress: dsvk.Progress?} the stage is a kernel, in its workgroups, or the op, in rows
---@return dsvk.Tensor? first, (dsvk.Tensor|string)? second_or_message, (dsvk.Tensor|dsvk.Code)? third_or_code, dsvk.Tensor? fourth
function dsvk.op(device, name, arguments, options) end
---@return table[]? ops, string? message, dsvk.Code? code name, does (the formula), arguments, results of every op
function dsvk.op_table() end

---Arguments by name, as dsvk.op_table() lists them; `device` where none of them is a tensor.
---@alias dsvk.OpArguments table<string, dsvk.Tensor|number|dsvk.Device>
dsvk.ops = {}
---@param arguments dsvk.OpArguments
---@param options? {progress: dsvk.Progress?}
---@return dsvk.Tensor? ...
function dsvk.ops.matmul(arguments, options) end
---@param arguments dsvk.OpArguments
---@param options? {progress: dsvk.Progress?}
---@return dsvk.Tensor? ...
function dsvk.ops.rms_norm(arguments, options) end
---@param arguments dsvk.OpArguments
---@param options? {progress: dsvk.Progress?}
---@return dsvk.Tensor? ...
function dsvk.ops.hyper_connection(arguments, options) end
---@param arguments dsvk.OpArguments
---@param options? {progress: dsvk.Progress?}
---@return dsvk.Tensor? ...
function dsvk.ops.moe(arguments, options) end
---@param arguments dsvk.OpArguments
---@param options? {progress: dsvk.Progress?}
---@return dsvk.Tensor? ...
function dsvk.ops.rope_table(arguments, options) end
---@param arguments dsvk.OpArguments
---@param options? {progress: dsvk.Progress?}
---@return dsvk.Tensor? ...
function dsvk.ops.rope(arguments, options) end
---@param arguments dsvk.OpArguments
---@param options? {progress: dsvk.Progress?}
---@return dsvk.Tensor? ...
function dsvk.ops.quant_row(arguments, options) end
---@param arguments dsvk.OpArguments
---@param options? {progress: dsvk.Progress?}
---@return dsvk.Tensor? ...
function dsvk.ops.quant_index(arguments, options) end
---@param arguments dsvk.OpArguments
---@param options? {progress: dsvk.Progress?}
---@return dsvk.Tensor? ...
function dsvk.ops.kv_compress(arguments, options) end
---@param arguments dsvk.OpArguments
---@param options? {progress: dsvk.Progress?}
---@return dsvk.Tensor? ...
function dsvk.ops.indexer(arguments, options) end
---@param arguments dsvk.OpArguments
---@param options? {progress: dsvk.Progress?}
---@return dsvk.Tensor? ...
function dsvk.ops.topk(arguments, options) end
---@param arguments dsvk.OpArguments
---@param options? {progress: dsvk.Progress?}
---@return dsvk.Tensor? ...
function dsvk.ops.sparse_attention(arguments, options) end
---@param arguments dsvk.OpArguments
---@param options? {progress: dsvk.Progress?}
---@return dsvk.Tensor? ...
function dsvk.ops.sample(arguments, options) end

return dsvk
