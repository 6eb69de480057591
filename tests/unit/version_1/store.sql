PRAGMA application_id = 1718385015;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE answers (key TEXT PRIMARY KEY, content TEXT NOT NULL, model TEXT NOT NULL,
                             created INTEGER NOT NULL, usage BLOB NOT NULL) WITHOUT ROWID;
INSERT INTO "answers" VALUES('k1','[[[other]]]','teacher',1,X'7B22746F74616C5F746F6B656E73223A337D');
INSERT INTO "answers" VALUES('k2','[[[earnings]]]','teacher',2,X'7B7D');
CREATE TABLE prompts (number INTEGER PRIMARY KEY, skeleton_digest BLOB NOT NULL,
                             text_digest BLOB NOT NULL, skeleton BLOB NOT NULL, text TEXT NOT NULL,
                             UNIQUE (skeleton_digest, text_digest));
INSERT INTO "prompts" VALUES(1,X'53DF31159148592614EA08DA4D7FD376',X'7C8B187AF50964CADFB137BC94A2C4C9',X'7B226D6F64656C223A2274656163686572222C226D65737361676573223A5B7B22726F6C65223A2273797374656D222C22636F6E74656E74223A22596F752061726520612066696E616E6369616C206E65777320636C61737369666965722E227D2C7B22726F6C65223A2275736572222C22636F6E74656E74223A22227D5D7D','Sort a financial news headline into exactly one of the classes below. Judge by what the headline says, not by what may follow from it.

Classes:
- analyst rating: a named bank, broker or asset manager rates, re-rates, repeats a rating of or comments on a named company or asset.
- price targets: a price target is stated, raised, cut or kept.
- earnings: realised revenue, profit, EPS, sales or other results of a past period. What is only expected is guidance.
- labour issues: layoffs, hiring, strikes, unions, wage costs, executive pay and bonuses, and changes among key people such as a new CEO.
- mergers and acquisitions: a merger, takeover, bid, stake or sale of a business, of any entities, planned or done. Partnerships do not count.
- dividends: a dividend is declared, raised, kept, cut or skipped.
- regulatory: acts of government, laws, courts, fines, tariffs, treaties, geopolitics, environmental standing, licences, patents, repayment of debt.
- stock price movement: prices move or reach highs and lows, unusual options activity, trading halts, pricing of offerings, for named entities or sectors. Not sales figures, not stock splits.
- credit ratings: a rating agency acts on debt or an issuer; borrowing capacity, credit lines and the value of debt.
- products-services: a particular product or service, its launch, roadmap or delay, and contracts won.
- product approval: an authority approves or clears a product, or accepts it for review.
- guidance: a company states, raises, cuts or confirms its own forward-looking figures.
- other: anything else, no specific company, opinion and advice, or in doubt.

When several classes fit, go by these rules, the first one that applies:
1. A stated price target makes it price targets, whatever else the headline says.
2. Mergers, acquisitions, bids and stake deals are mergers and acquisitions.
3. Acts of governments, courts and regulators are regulatory, unless they approve a product or accept it for review: that is product approval.
4. A bank, broker or fund that speaks about a named company or asset is analyst rating, also when it talks about earnings or products.
5. Realised figures are earnings, figures that a company expects are guidance. A headline with both is earnings.
6. A share that moves because of other news is stock price movement if the move is the message.
7. Without a particular company or sector, or when in doubt, answer other.

Examples:
Headline: Hartwell Securities upgrades Norvane Foods to buy
Class: [[[analyst rating]]]

Headline: Belmont Capital says Ostrava Steel looks cheap before results
Class: [[[analyst rating]]]

Headline: Calder Bank keeps hold on Pinewave, lifts target to $48
Class: [[[price targets]]]

Headline: Arden & Cole sees Lumen Harbor at $130 within a year
Class: [[[price targets]]]

Headline: Lumen Harbor Q3 EPS $1.12 vs. $1.05 estimate, revenue up 8%
Class: [[[earnings]]]

Headline: Tessaly Retail same-store sales fell 3% in December
Class: [[[earnings]]]

Headline: Grantway Motors to cut 1,400 jobs at two plants
Class: [[[labour issues]]]

Headline: Orrin Health names Maria Velde chief financial officer
Class: [[[labour issues]]]

Headline: Kestrel Energy agrees to buy Dunmore Pipelines for $2.1 billion
Class: [[[mergers and acquisitions]]]

Headline: Norvane Foods weighs sale of its frozen unit
Class: [[[mergers and acquisitions]]]

Headline: Fairmont Paper raises quarterly dividend to 34 cents
Class: [[[dividends]]]

Headline: Oakhaven Properties suspends payout to shareholders
Class: [[[dividends]]]

Headline: EU opens antitrust inquiry into Solvant Chemicals
Class: [[[regulatory]]]

Headline: Brightline Solar granted patent for cell coating
Class: [[[regulatory]]]

Headline: Quillon shares sink 11% after weak outlook
Class: [[[stock price movement]]]

Headline: Unusual call buying seen in Redmoor Mining
Class: [[[stock price movement]]]

Headline: Agency cuts Alderney Airlines to junk, outlook negative
Class: [[[credit ratings]]]

Headline: Dunmore Pipelines doubles revolving credit line to $800 million
Class: [[[credit ratings]]]

Headline: Vantix wins $90 million contract for rail signals
Class: [[[products-services]]]

Headline: Cobalt Games delays its new console to spring
Class: [[[products-services]]]

Headline: FDA clears Mirador''s glucose sensor
Class: [[[product approval]]]

Headline: EMA accepts Calvera''s asthma drug for review
Class: [[[product approval]]]

Headline: Penhall Software sees full-year revenue of $410 to $420 million
Class: [[[guidance]]]

Headline: Tessaly Retail trims its profit forecast for next year
Class: [[[guidance]]]

Headline: Five habits of patient investors
Class: [[[other]]]

Headline: What to watch on Wall Street this week
Class: [[[other]]]

Headline: Headline number 0
Answer with the class in triple square brackets and nothing else.');
CREATE TABLE records (id BLOB PRIMARY KEY, scope INTEGER NOT NULL, timestamp INTEGER NOT NULL,
                             label TEXT NOT NULL, prompt INTEGER NOT NULL, first INTEGER NOT NULL,
                             last INTEGER NOT NULL, text TEXT NOT NULL, answer TEXT NOT NULL,
                             response BLOB);
INSERT INTO "records" VALUES(X'887521BD5379DA36A393CD7B604277A8',1,1000,'OTHER',1,4840,0,'','[[[other]]]',NULL);
INSERT INTO "records" VALUES(X'A8A318D63A491369C06C3BBEEADFE6D3',1,1000,'OTHER',1,4773,66,'1','[[[other]]]',NULL);
INSERT INTO "records" VALUES(X'0A726765A7EA67D449FD8598984CDA2C',1,1000,'OTHER',1,4773,66,'2','[[[other]]]',NULL);
INSERT INTO "records" VALUES(X'6B582D00E48C7C5BD187B9CB62B9CB04',1,1001,'OTHER',1,4773,66,'3','[[[other]]]',NULL);
INSERT INTO "records" VALUES(X'866F000C705A0377E74C2F8920EA9602',1,1001,'OTHER',1,4773,66,'4','[[[other]]]',NULL);
INSERT INTO "records" VALUES(X'5A1AE0D3AE35C5722FDF490B55EAC83B',1,1001,'OTHER',1,4773,66,'5','[[[other]]]',NULL);
INSERT INTO "records" VALUES(X'807BB41BF717D794969D14B5F26E538A',1,1002,'OTHER',1,4773,66,'6','[[[other]]]',NULL);
INSERT INTO "records" VALUES(X'75F0E92DDC38511D9CF2B00EC44BBCBF',2,0,'OTHER',1,4757,66,'Acme cuts outlook','[[[other]]]',NULL);
CREATE TABLE scopes (number INTEGER PRIMARY KEY, workload_id TEXT NOT NULL, client_id TEXT NOT NULL,
                            UNIQUE (workload_id, client_id));
INSERT INTO "scopes" VALUES(1,'news_classifier','desk');
INSERT INTO "scopes" VALUES(2,'news_classifier','other');
CREATE UNIQUE INDEX records_in_time ON records (scope, timestamp, id);
COMMIT;
