# ruff: noqa: SIM905  (a word list reads best as one text)
"""The word lists of the guards: plain English, written from general knowledge and not from any benchmark.

A list is a string of words; `a=b` says that `a` is another spelling of `b`. They err towards more: a word too many costs a hit, a word too few
may serve a wrong answer.
"""

from __future__ import annotations

from headrace.cache.text import stem

__all__ = [
    "CURRENCIES",
    "FILLERS",
    "FORMS",
    "FUNCTION",
    "MODALS",
    "NEGATIONS",
    "NUMBERS",
    "PLACES",
    "POLES",
    "SYMMETRIC",
    "SYNONYMS",
    "TIMES",
    "UNITS",
    "VAGUE",
]


def _map(text: str) -> dict[str, str]:
    pairs = (item.partition("=") for item in text.split())
    return {word.replace("_", " "): (same or word).replace("_", " ") for word, _, same in pairs}


NUMBERS = _map(
    "zero=0 nil=0 one=1 two=2 three=3 four=4 five=5 six=6 seven=7 eight=8 nine=9 ten=10 eleven=11 twelve=12 thirteen=13 "
    "fourteen=14 fifteen=15 sixteen=16 seventeen=17 eighteen=18 nineteen=19 twenty=20 thirty=30 forty=40 fifty=50 sixty=60 "
    "seventy=70 eighty=80 ninety=90 hundred=100 thousand=1000 million=1000000 billion=1000000000 trillion=1000000000000 "
    "first=#1 second=#2 third=#3 fourth=#4 fifth=#5 sixth=#6 seventh=#7 eighth=#8 ninth=#9 tenth=#10 eleventh=#11 twelfth=#12 "
    "thirteenth=#13 fourteenth=#14 fifteenth=#15 sixteenth=#16 seventeenth=#17 eighteenth=#18 nineteenth=#19 twentieth=#20 "
    "thirtieth=#30 half=1/2 quarter=1/4 quarters=1/4 dozen=12 once=x1 twice=x2 thrice=x3 double=x2 triple=x3 single=x1 couple=x2 pair=x2 "
    "both=x2 i=roman1 ii=roman2 iii=roman3 iv=roman4 vi=roman6 vii=roman7 viii=roman8 ix=roman9 xi=roman11 xii=roman12"
)
del NUMBERS["i"]
"""Also ordinals (#) and multiples (x); `one` alone is often a pronoun, which costs hits only."""

UNITS = _map(
    "mg milligram=mg milligrams=mg g gram=g grams=g kg kilo=kg kilos=kg kilogram=kg kilograms=kg mcg microgram=mcg micrograms=mcg lb lbs=lb "
    "pound=lb pounds=lb oz ounce=oz ounces=oz stone ton tons=ton tonne=ton tonnes=ton ml milliliter=ml milliliters=ml millilitre=ml "
    "millilitres=ml cl l liter=l liters=l litre=l litres=l gallon gallons=gallon pint pints=pint quart quarts=quart cup cups=cup tbsp "
    "tablespoon=tbsp tablespoons=tbsp tsp teaspoon=tsp teaspoons=tsp mm millimeter=mm millimeters=mm cm centimeter=cm centimeters=cm "
    "centimetres=cm m meter=m meters=m metre=m metres=m km kilometer=km kilometers=km kilometre=km kilometres=km mile miles=mile mi=mile "
    "inch inches=inch foot feet=foot ft=foot yard yards=yard yd=yard acre acres=acre hectare hectares=hectare celsius c=celsius "
    "fahrenheit f=fahrenheit kelvin degree degrees=degree byte bytes=byte bit bits=bit kb mb gb tb kilobyte=kb megabyte=mb gigabyte=gb "
    "terabyte=tb kilobytes=kb megabytes=mb gigabytes=gb terabytes=tb mbps gbps hz khz mhz ghz watt watts=watt kw kilowatt=kw kwh volt "
    "volts=volt amp amps=amp ohm ohms=ohm mph kph kmh psi bar calorie calories=calorie kcal=calorie joule joules=joule percent percentage=percent "
    "second_s seconds=sec sec minute minutes=minute min=minute mins=minute hour hours=hour hr=hour hrs=hour day days=day week weeks=week fortnight "
    "month months=month year years=year yr=year yrs=year decade decades=decade century centuries=century daily=day weekly=week monthly=month "
    "yearly=year annual=year annually=year hourly=hour quarterly"
)
CURRENCIES = _map(
    "$=usd usd dollar=usd dollars=usd buck=usd bucks=usd €=eur eur euro=eur euros=eur £=gbp gbp quid=gbp sterling=gbp ¥=jpy jpy yen=jpy "
    "yuan rmb=yuan cny=yuan rupee rupees=rupee inr=rupee ₹=rupee peso pesos=peso franc francs=franc chf=franc won krw=won ruble rubles=ruble "
    "rouble=ruble lira real reais=real rand zloty krona kronor=krona krone kroner=krone shekel shekels=shekel dirham dinar riyal baht ringgit "
    "rupiah dong cent cents=cent penny pennies=penny pence=penny bitcoin btc=bitcoin ethereum eth=ethereum aud cad nzd crypto cryptocurrency=crypto"
)
TIMES = _map(
    "january jan=january february feb=february march april apr=april may_month june jun=june july jul=july august aug=august september sep=september "
    "sept=september october oct=october november nov=november december dec=december monday mon=monday mondays=monday tuesday tue=tuesday tues=tuesday "
    "tuesdays=tuesday wednesday wed=wednesday wednesdays=wednesday thursday thu=thursday thurs=thursday thursdays=thursday friday fri=friday fridays=friday "
    "saturday sat_day=saturday saturdays=saturday sunday sundays=sunday today tonight tomorrow tmrw=tomorrow yesterday now currently=now morning mornings=morning "
    "afternoon evening evenings=evening night nights=night noon midday=noon midnight am a.m=am pm p.m=pm weekend weekends=weekend weekday weekdays=weekday "
    "spring summer autumn fall_season winter christmas xmas=christmas easter thanksgiving halloween ramadan next last previous=last past=last upcoming=next "
    "recent recently=recent latest=recent current=now later earlier soon early late o'clock=oclock oclock dawn dusk sunrise sunset lunch dinner breakfast "
    "always never ever already yet still again ago since until till=until during while birthday anniversary"
)
for _word in ("fall season", "may month", "sat day"):
    TIMES.pop(_word, None)
for _word in (
    *"always ever already yet still again while never now currently late early soon later earlier since until till during".split(),
):
    TIMES.pop(_word, None)

NEGATIONS = frozenset(
    "not no never none nobody nothing nowhere neither nor cannot without hardly barely dont doesnt didnt isnt arent wasnt werent cant couldnt "
    "wont wouldnt shouldnt havent hasnt hadnt aint non unable fail fails failed failing lack lacks lacking except excluding avoid avoiding refuse "
    "refused refuses stop_from prevent preventing".split()
)
MODALS = {
    "should": "should", "ought": "should", "must": "must", "shall": "should", "can": "can", "could": "can", "able": "can", "may": "may",
    "might": "may", "would": "would", "will": "will", "used": "used", "becoming": "become", "become": "become", "becomes": "become",
    "became": "become", "allowed": "may", "permitted": "may", "necessary": "must", "required": "must", "possible": "can",
}  # fmt: skip

POLES: dict[str, tuple[str, int]] = {}
"""Word to its pair and its side."""
for _number, _pair in enumerate(
    """
    on / off | enable enables enabled enabling activate activated activating activation / disable disables disabled disabling deactivate deactivated deactivating deactivation
    | open opens opened opening unlock unlocked unlocking / close closes closed closing shut lock locked locking block blocked blocking freeze frozen
    | start starts started starting begin begins began resume launch / stop stops stopped stopping end ends ended ending finish quit pause paused halt terminate kill
    | increase increases increased increasing raise raised raising rise grow boost up louder higher brighter / decrease decreases decreased decreasing lower lowered
      lowering reduce reduced reducing down quieter softer dim dimmer shrink minimize
    | add adds added adding include including insert create created creating append / remove removes removed removing delete deleted deleting erase exclude drop cancel
    | buy buys buying bought purchase / sell sells selling sold | import imports imported importing / export exports exported exporting
    | send sends sending sent / receive receives receiving received receiver get got | borrow borrowed / lend lent | win won wins / lose lost loses losing
    | before prior earlier / after following later since | first / last final | more most / less least fewer fewest | above over / below under beneath | high higher highest tall taller tallest / low lower lowest short shorter shortest
    | hot hotter hottest warm warmer heat heating / cold colder coldest cool cooler cooling chilly | big bigger biggest large larger largest huge / small smaller smallest little tiny
    | long longer longest / short shorter shortest brief | fast faster fastest quick quickest / slow slower slowest | good better best / bad worse worst | old older oldest / new newer newest young younger youngest
    | early earliest / late latest | left / right | north northern / south southern | east eastern / west western | inside indoors indoor internal interior / outside outdoors outdoor external exterior
    | top upper / bottom lower | front / back rear | max maximum most highest / min minimum least lowest | advantage advantages pros pro benefit benefits upside / disadvantage disadvantages cons con drawback drawbacks downside risk risks
    | legal legally / illegal illegally | safe safely / unsafe dangerous | public / private | male man men boy boys husband father dad son brother king uncle mr / female woman women girl girls wife mother mom daughter sister queen aunt mrs ms
    | accept accepts accepted accepting approve approved / reject rejects rejected rejecting decline declined deny denied refuse refused | allow allowed permit permitted enable / forbid forbidden prohibit banned ban prevent prevented
    | push pushed / pull pulled | install installed installing / uninstall uninstalled uninstalling | upload uploaded uploading / download downloaded downloading
    | connect connected connecting attach / disconnect disconnected disconnecting detach | login signin logon / logout signout logoff | subscribe subscribed / unsubscribe unsubscribed
    | encrypt encrypted encode encoded / decrypt decrypted decode decoded | upgrade upgraded upgrading / downgrade downgraded downgrading | deposit deposited deposits / withdraw withdrawn withdrawal withdrawals withdrew
    | debit / credit | gross / net | arrive arrives arrived arriving arrival arrivals / depart departs departed departing departure departures leave leaving left | come coming came / go going went
    | domestic / international foreign overseas abroad | import / export | input / output | read reading / write writing | minimum / maximum | past / future | cheap cheaper cheapest / expensive priciest dearest
    | hard harder hardest difficult / easy easier easiest soft | strong stronger strongest / weak weaker weakest | wet / dry | light lighter / dark darker heavy heavier | full / empty | full / part partial
    | positive / negative | same equal identical / different differ unequal | true correct right / false wrong incorrect | alive living / dead dying died | happy glad / sad unhappy upset
    | success successful succeed succeeded / failure failed failing fail unsuccessful | vertical vertically / horizontal horizontally | ascending / descending | mute muted silence / unmute unmuted
    | show shows showing display visible / hide hides hidden hiding invisible | save saved / discard discarded spend spent | expand / collapse compress | forward forwards / backward backwards reverse
    | temporary temporarily / permanent permanently | manual manually / automatic automatically auto | single / multiple several married | virtual digital online / physical plastic offline paper
    | employer / employee | teacher / student | doctor / patient | landlord / tenant | buyer / seller | child kid kids children toddler baby newborn / adult adults | lender / borrower | host / guest | wife / husband
    | love loves like likes / hate hates dislike dislikes | remember / forget forgot | agree / disagree | appear / disappear vanish | ask asking / answer answering | attack / defend | gain / lose | healthy / unhealthy sick ill
    | possible / impossible | able / unable | known / unknown | usual / unusual | valid / invalid | available / unavailable | like / unlike | lucky / unlucky | fair / unfair | do / undo | dress / undress | pack / unpack | load / unload
    | follow / unfollow | friend / unfriend enemy | zip / unzip | wrap / unwrap | plug / unplug | mount / unmount | pin / unpin | verified verify / unverified | used / unused | paid / unpaid | married / unmarried divorced | employed / unemployed
    | daily / weekly monthly yearly | weekday / weekend | day / night | morning / evening | am / pm | sunrise / sunset | summer / winter | sender / recipient | origin / destination | source / target | primary / secondary | master / slave
    | client / server | boy / girl | hyper / hypo | over / under | pre / post | with / without | always / never | everyone everybody / nobody | all / none | any every / some | wake / sleep | charge charged / refund refunded discharge
    """.replace("\n", " ").split("|")
):
    for _side, _words in enumerate(_pair.split("/")):
        for _word in _words.split():
            POLES.setdefault(f"{_number}:{_word}", (_word, _side))

FORMS = _map(
    "json yaml xml csv html markdown latex table tables=table bullet bullets=bullet bulleted=bullet list_form numbered essay poem haiku sonnet limerick song story "
    "paragraph paragraphs=paragraph sentence sentences=sentence word_form summary summarize=summary summarise=summary tldr=summary outline diagram chart graph email letter tweet "
    "briefly=brief brief short_form concise=brief detailed=detail detail details=detail thoroughly=detail comprehensive=detail steps=step step eli5 simple simply=simple "
    "formal informal casual code script regex sql python javascript java typescript rust golang ruby php swift kotlin bash powershell excel example examples=example pdf word_doc slide slides=slide"
)
for _word in ("list form", "word form", "short form", "word doc"):
    FORMS.pop(_word, None)

PLACES = _map(
    "nyc=new_york new_york_city=new_york new_york manhattan brooklyn la=los_angeles los_angeles sf=san_francisco san_francisco dc=washington washington washington_dc=washington "
    "usa=us us_country=us u.s=us u.s.a=us united_states=us united_states_of_america=us america=us american=us americans=us uk u.k=uk united_kingdom=uk britain=uk great_britain=uk british=uk england english scotland "
    "scottish=scotland wales welsh=wales ireland irish=ireland france french=france germany german=germany italy italian=italy spain spanish=spain portugal portuguese=portugal "
    "netherlands holland=netherlands dutch=netherlands belgium belgian=belgium switzerland swiss=switzerland austria austrian=austria poland polish=poland czech=czechia czechia "
    "slovakia hungary hungarian=hungary romania romanian=romania bulgaria bulgarian=bulgaria greece greek=greece turkey turkish=turkey russia russian=russia ukraine ukrainian=ukraine "
    "belarus estonia latvia lithuania finland finnish=finland sweden swedish=sweden norway norwegian=norway denmark danish=denmark iceland icelandic=iceland croatia croatian=croatia serbia serbian=serbia "
    "slovenia bosnia albania kosovo macedonia montenegro moldova georgia armenia armenian=armenia azerbaijan kazakhstan uzbekistan turkmenistan kyrgyzstan tajikistan afghanistan "
    "afghan=afghanistan pakistan pakistani=pakistan india indian=india bangladesh nepal bhutan sri_lanka maldives china chinese=china mandarin cantonese taiwan taiwanese=taiwan hong_kong macau "
    "japan japanese=japan korea korean=korea south_korea=korea north_korea mongolia vietnam vietnamese=vietnam thailand thai=thailand laos cambodia myanmar burma=myanmar malaysia malaysian=malaysia singapore "
    "indonesia indonesian=indonesia philippines filipino=philippines australia australian=australia new_zealand fiji papua samoa tonga canada canadian=canada mexico mexican=mexico guatemala belize "
    "honduras nicaragua costa_rica panama cuba cuban=cuba jamaica jamaican=jamaica haiti dominican bahamas barbados trinidad puerto_rico colombia colombian=colombia venezuela ecuador peru "
    "peruvian=peru bolivia chile chilean=chile argentina argentinian=argentina uruguay paraguay brazil brazilian=brazil guyana suriname egypt egyptian=egypt libya tunisia algeria morocco "
    "moroccan=morocco sudan ethiopia ethiopian=ethiopia eritrea somalia djibouti kenya kenyan=kenya uganda tanzania rwanda burundi congo gabon cameroon nigeria nigerian=nigeria ghana ghanaian=ghana togo benin "
    "mali niger chad senegal gambia guinea liberia sierra_leone ivory_coast burkina namibia botswana zimbabwe zambia malawi mozambique angola madagascar mauritius seychelles south_africa "
    "israel israeli=israel hebrew palestine palestinian=palestine jordan lebanon lebanese=lebanon syria syrian=syria iraq iraqi=iraq iran iranian=iran persian=iran saudi saudi_arabia=saudi arabic arab=arabic yemen oman uae emirates=uae qatar "
    "bahrain kuwait cyprus malta monaco luxembourg liechtenstein greenland bermuda antarctica europe european=europe asia asian=asia africa african=africa latin hindi urdu bengali tamil telugu punjabi swahili "
    "alabama alaska arizona arkansas california californian=california colorado connecticut delaware florida hawaii idaho illinois indiana iowa kansas kentucky louisiana maine maryland massachusetts michigan "
    "minnesota mississippi missouri montana nebraska nevada new_hampshire new_jersey new_mexico north_carolina north_dakota ohio oklahoma oregon pennsylvania rhode_island south_carolina south_dakota "
    "tennessee texas utah vermont virginia west_virginia wisconsin wyoming boston chicago houston phoenix philadelphia philly=philadelphia san_antonio san_diego dallas austin san_jose jacksonville columbus charlotte "
    "indianapolis seattle denver nashville detroit memphis portland las_vegas vegas=las_vegas louisville baltimore milwaukee albuquerque tucson fresno sacramento atlanta miami oakland minneapolis tulsa tampa orlando "
    "cleveland pittsburgh cincinnati st_louis newark anchorage honolulu buffalo salt_lake_city kansas_city new_orleans toronto montreal vancouver ottawa calgary edmonton quebec winnipeg halifax london manchester birmingham liverpool leeds "
    "glasgow edinburgh bristol cardiff belfast dublin paris lyon marseille nice_city berlin munich hamburg frankfurt cologne stuttgart vienna zurich geneva rome milan naples venice florence turin madrid barcelona "
    "seville valencia lisbon porto amsterdam rotterdam brussels antwerp copenhagen stockholm oslo helsinki reykjavik warsaw krakow prague budapest bucharest sofia athens istanbul ankara moscow kiev kyiv=kiev "
    "minsk riga vilnius tallinn cairo casablanca lagos nairobi johannesburg cape_town accra addis_ababa dubai abu_dhabi doha riyadh jeddah tehran baghdad beirut damascus jerusalem tel_aviv amman mumbai bombay=mumbai "
    "delhi new_delhi=delhi bangalore bengaluru=bangalore chennai kolkata hyderabad pune ahmedabad karachi lahore islamabad dhaka kathmandu colombo beijing shanghai shenzhen guangzhou wuhan taipei tokyo osaka kyoto "
    "seoul busan bangkok hanoi saigon jakarta bali manila kuala_lumpur sydney melbourne brisbane perth adelaide canberra auckland wellington mexico_city cancun havana bogota medellin lima quito santiago buenos_aires "
    "rio sao_paulo brasilia caracas hongkong=hong_kong kenya zanzibar siberia crimea catalonia bavaria tuscany sicily crete normandy scandinavia scandinavian=scandinavia balkans caribbean alps himalayas sahara amazon "
    "kitchen bedroom bed_room=bedroom bathroom bath_room=bathroom garage hallway hall_way=hallway living_room lounge=living_room basement attic "
    "dining_room laundry_room balcony porch patio backyard corridor upstairs downstairs"
)
"""Places of the world, and those of a house."""
for _word in ("us country", "nice city"):
    PLACES.pop(_word, None)

SYMMETRIC = frozenset(
    stem(word)
    for word in (
        "related connected married engaged dating friends friend siblings cousins neighbours neighbors similar same equal equivalent identical different "
        "difference differ close acquaintance acquaintances acquainted compare compared comparison versus vs"
    ).split()
)
"""Stems of what one thing is to another exactly when the other is to it."""

FUNCTION = frozenset(
    "a an the this that these those there here it its i me my mine myself you your yours yourself he him his himself she her hers herself we us our ours "
    "ourselves they them their theirs themselves one who whom whose which what when where why how whether if then than as so because since although though "
    "while of in on at by for with about against between into through during before after above below to from up down out off over under again further once "
    "am is are was were be been being have has had having do does did doing would should could ought will shall may might must can cannot not no nor and or "
    "but just too very also only own same both each few more most other some any all such s t d ll m re ve o y ma let's please tell know want wants wanted need needs like get got give say go "
    "let us make kind sort way ways thing things would'nt im ive id youre dont doesnt didnt isnt arent cant wont whats wheres hows whos thats theres".split()
)
VAGUE = frozenset(
    "tell know want wants wanted need needs like get got getting give given say let make way ways thing things kind sort help explain show find possible able please best good "
    "thanks could can would will do does did is are was be have has go going try trying see look question wondering ask".split()
)
FILLERS = frozenset(
    "just really actually truly literally currently please exactly basically simply even still also maybe perhaps quickly kindly somehow anyway well ok okay right now hey hi "
    "hello thanks thank sir madam um uh so then there possibly ever indeed honestly probably definitely certainly quite rather pretty overall generally usually".split()
)

SYNONYMS: dict[str, int] = {}
"""The stem of a word to the number of its group: words that may stand for each other in a question without another answer."""
for _number, _group in enumerate(
    """
    cancel abort revoke | buy purchase | begin start commence | end finish conclude | fix repair mend resolve solve | big large | small little | quick fast rapid | error mistake fault
    | photo picture image pic photograph | car automobile vehicle | phone telephone cellphone mobile smartphone | tv television telly | movie film | kid child | mom mother mum | dad father
    | doctor physician | attorney lawyer | cab taxi | flat apartment | holiday vacation | store shop | cost price fee charge | job occupation employment | pay salary wage wages | guide tutorial instructions
    | help assist assistance aid support | show display | find locate discover | search look | get obtain receive acquire | give provide | tell inform | speak talk | choose select pick | change modify alter switch
    | make create build produce generate | need require | use utilize employ | allow permit let | happen occur | difference distinction differ different | reason cause why | method way approach technique | steps procedure process
    | begin start | quit exit leave | delete erase remove | correct right accurate | wrong incorrect inaccurate | hard difficult tough | easy simple | important significant crucial | terrible awful horrible | great excellent wonderful
    | clever smart intelligent | rich wealthy | ill sick unwell | scared afraid frightened | angry mad furious | happy glad | sad unhappy | tired exhausted | funny humorous | strange odd weird | whole entire complete | about approximately roughly
    | also too | maybe perhaps | often frequently | usually normally typically | immediately instantly straightaway | soon shortly | people persons folks | man guy | woman lady | house home | road street | city town | country nation | world earth globe
    | meal dish | luggage baggage | autumn fall | gas petrol gasoline fuel | trash garbage rubbish waste | elevator lift | truck lorry | cookie biscuit | soccer football | pants trousers | sneaker trainers | program application app software | website site webpage
    | email mail e-mail | password passcode | login signin | picture image | document file | folder directory | computer pc laptop_no | screen display monitor | button key | bug defect | function method | variable parameter_no | advice tips suggestions recommendations
    | meaning definition mean means define | explain describe clarify | list enumerate | compare contrast | summary overview synopsis | example instance sample | answer response reply | question query | problem issue trouble | goal aim objective purpose
    | result outcome | effect impact influence | chance probability likelihood odds | amount quantity | size dimension dimensions | length duration | speed velocity | height altitude elevation | begin onset | top best | recipe recipes | calorie calories
    | card cards | refund reimbursement reimburse | transfer transfers transferring | top-up topup | arrive come delivered delivery | wrongly incorrectly mistakenly | missing lost | stolen theft robbed | verify verification confirm authenticate | identity id identification
    | exchange convert conversion swap | currency currencies | broken damaged faulty | declined rejected refused denied | pending processing | balance funds money | withdraw withdrawal cash | travel trip journey | ticket tickets | reserve book booking reservation
    | meeting appointment | remind reminder | schedule calendar agenda | song track tune music | play start | volume sound | lamp light lights bulb | turn switch put | lower decrease reduce | raise increase | weather forecast | rain raining rainy | snow snowing snowy | hot warm | cold chilly
    """.replace("\n", " ").split("|")
):
    for _word in _group.split():
        SYNONYMS.setdefault(stem(_word), _number)
